"""README, "Adding things", is literally true: a toy of each kind, in a copy of the packages, trains."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.track.journal import step_records

ROOT = Path(__file__).parents[1]
PACKAGES = ("launcher", "models", "cluster")


def readme_files(kind: str, name: str) -> set[str]:
    """Files that the README names for adding one kind of thing."""
    section = (ROOT / "README.md").read_text().split("## Adding things")[1].split("\n## ")[0]
    (text,) = re.findall(rf"^- \*{kind}\*:(.*?)(?=^- |\Z)", section, re.MULTILINE | re.DOTALL)
    return {path.replace("NAME", name) for path in re.findall(r"`([a-z_/]+(?:NAME)?\.py)`", text)}


LAYER = {
    "models/gate.py": '''
"""A toy: each channel times a linear function of all."""

import torch

from models.facts import ParamFacts
from models.layers import Linear, linear_facts
from models.mixer import Mixer, State


class Gate(Mixer):
    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.gate = Linear(d_model, d_model)

    def forward(self, x_BLH: torch.Tensor, mask_BL: torch.Tensor | None = None) -> torch.Tensor:
        return x_BLH * self.gate(x_BLH)

    def initial_state(self, batch_size: int, device: torch.device) -> State:
        return ()

    def advance(self, x_BLH: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        return self(x_BLH), state


def gate_facts() -> dict[str, ParamFacts]:
    return linear_facts("gate")
''',
    "models/config.py": [('"ssd", "ffn"]', '"ssd", "ffn", "gate"]')],
    "models/layer_table.py": [
        ("from models.layers import", "from models.gate import Gate, gate_facts\nfrom models.layers import"),
        (
            '    "ffn": LayerKind(',
            '    "gate": LayerKind(\n'
            "        build=lambda c, m: Gate(c.d_model),\n"
            "        facts=lambda c: gate_facts(),\n"
            "        flops=lambda c, seq_len: 2.0 * c.d_model**2,\n"
            "        footprint=lambda c, step: Footprint(saved=8.0 * step.positions, working=0.0),\n"
            "    ),\n"
            '    "ffn": LayerKind(',
        ),
    ],
}

OPTIMIZER = {
    "launcher/optim/sign_descent.py": '''
"""A toy: the sign of the gradient."""

import torch


class SignDescent(torch.optim.Optimizer):
    def __init__(self, groups: list[dict[str, object]]) -> None:
        super().__init__(groups, {})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.add_(p.grad.sign(), alpha=-group["lr"])
''',
    "launcher/optim/config.py": [
        (
            "class OtherRates(Section):",
            "class SignDescentConfig(OptimSection):\n"
            '    type: Literal["sign-descent"]\n'
            "    weight_decay: NonNegative = 0.0\n\n\n"
            "class OtherRates(Section):",
        ),
        ("    | LionConfig\n", "    | LionConfig\n    | SignDescentConfig\n"),
    ],
    "launcher/optim/optimizer_table.py": [
        ("    SGDConfig,\n", "    SGDConfig,\n    SignDescentConfig,\n"),
        (
            "def _muon(",
            'def _sign_descent(groups: TorchGroups, _config: SignDescentConfig) -> "torch.optim.Optimizer":\n'
            "    from launcher.optim.sign_descent import SignDescent\n\n"
            "    return SignDescent(groups)\n\n\n"
            "def _muon(",
        ),
        (
            '    "lion": OptimizerKind(',
            '    "sign-descent": OptimizerKind(\n'
            "        section=SignDescentConfig,\n"
            "        build=_sign_descent,\n"
            '        update=lambda config: "sign",\n'
            "        state=_per_number(0),\n"
            "    ),\n"
            '    "lion": OptimizerKind(',
        ),
    ],
}

SOURCE = {
    "launcher/data/counting.py": '''
"""A toy: sample i counts from i on."""

import numpy as np
import torch
from numpy.typing import NDArray

from launcher.data.config import CountingSource, DataConfig
from launcher.data.dataset import Batch, Dataset, Reader, Splits


class Counting(Dataset):
    def __init__(self, source: CountingSource, seq_len: int, first: int) -> None:
        self._source, self._seq_len, self._first = source, seq_len, first

    @property
    def num_samples(self) -> int:
        return 1000

    def batch(self, indices: NDArray[np.int64]) -> Batch:
        block = torch.from_numpy(indices)[:, None] + self._first + torch.arange(self._seq_len + 1)
        block = block % self._source.modulus
        return Batch(x=block[:, :-1].contiguous(), y=block[:, 1:].contiguous())


def open_counting(config: DataConfig, source: CountingSource, reader: Reader) -> Splits:
    train, validation = (Counting(source, config.seq_len, first) for first in (0, 1000))
    return Splits(train, validation, f"counting modulo {source.modulus}", "counting")
''',
    "launcher/data/config.py": [
        (
            "class DigitsSource(SourceSection):",
            "class CountingSource(SourceSection):\n"
            '    type: Literal["counting"]\n'
            "    modulus: int = 7\n\n"
            "    def shape(self) -> TaskShape:\n"
            '        return TaskShape(("tokens",), "tokens", vocab_size=self.modulus)\n\n\n'
            "class DigitsSource(SourceSection):",
        ),
        ("    | RecallSource\n", "    | RecallSource\n    | CountingSource\n"),
    ],
    "launcher/data/source_table.py": [
        ("    CopyingSource,\n", "    CopyingSource,\n    CountingSource,\n"),
        (
            "SOURCES: Mapping",
            'def _counting(config: DataConfig, source: CountingSource, reader: "Reader") -> "Splits":\n'
            "    from launcher.data.counting import open_counting\n\n"
            "    return open_counting(config, source, reader)\n\n\n"
            "SOURCES: Mapping",
        ),
        (
            '    "digits": SourceKind(',
            '    "counting": SourceKind(section=CountingSource, open=_counting),\n    "digits": SourceKind(',
        ),
    ],
}

CLUSTER = {
    "cluster/inline.py": '''
"""A toy: one process, as a child of this one."""

import subprocess
from pathlib import Path

from cluster.config import ClusterConfig
from cluster.job import Cluster, Job
from cluster.shell import lines_before_agent, quote, words


class InlineCluster(Cluster):
    def __init__(self, config: ClusterConfig) -> None:
        self.config = config

    def threads(self, nproc_per_node: int) -> int:
        return 1

    def render(self, job: Job) -> str:
        lines = lines_before_agent(job, self.config)
        return "\\n".join(["#!/bin/bash", *lines, f"exec {quote(job.python)} {words(job.command)}", ""])

    def submit(self, script: Path) -> str:
        subprocess.run(["bash", str(script)], check=True)
        return "17"
''',
    "cluster/config.py": [('"auto", "local", "slurm"]', '"auto", "local", "slurm", "inline"]')],
    "cluster/kinds.py": [
        (
            "from cluster.job import",
            "from cluster.inline import InlineCluster\nfrom cluster.job import",
        ),
        ('{"local": LocalCluster,', '{"inline": InlineCluster, "local": LocalCluster,'),
    ],
}

TOYS = {
    "layer": ("gate", LAYER),
    "optimizer": ("sign_descent", OPTIMIZER),
    "data source": ("counting", SOURCE),
    "cluster": ("inline", CLUSTER),
}

RECIPE = """\
version: 1
name: toys
seed: 1
model: {type: lm, vocab_size: 7, d_model: 16, num_layers: 2, pattern: [gate]}
data: {source: {type: counting}, seq_len: 16}
optim: {type: sign-descent, lr: 1e-2}
schedule: {type: cosine, warmup_steps: 2}
mup: {type: mup, base_width: 8}
parallel: {engine: torch, strategy: single}
train: {steps: 20, global_batch_size: 8, micro_batch_size: 8, validate_every: 20, validation_sequences: 8}
checkpoint: {every: 20}
track: {log_every: 1, mlflow: {enabled: false}}
cluster: {type: inline, nproc_per_node: 1}
"""


def apply(root: Path, changes: dict[str, str | list[tuple[str, str]]]) -> None:
    for path, change in changes.items():
        if isinstance(change, str):
            (root / path).write_text(change.lstrip())
            continue
        for before, after in change:
            text = (root / path).read_text()
            assert text.count(before) == 1, f"{before!r} is {text.count(before)} times in {path}"
            (root / path).write_text(text.replace(before, after))


@pytest.mark.parametrize("kind", TOYS)
def test_the_readme_names_every_file_that_is_touched_and_no_other(kind: str) -> None:
    name, changes = TOYS[kind]
    assert set(changes) == readme_files(kind.join(("An? ", "")), name)


def test_a_toy_of_each_kind_trains_in_a_copy_of_the_packages(tmp_path: Path) -> None:
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    for _, changes in TOYS.values():
        apply(tmp_path, changes)
    (tmp_path / "toys.yaml").write_text(RECIPE)
    done = subprocess.run(
        [sys.executable, "-m", "launcher", "toys.yaml", "--run-dir", "run"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "job: 17" in done.stdout
    losses = [record["loss"] for record in step_records(tmp_path / "run" / "journal.jsonl").values()]
    assert len(losses) == 20
    assert losses[-1] < losses[0] - 0.2, losses
