"""Distributions with extensions, as pip installs them, for tests."""

from pathlib import Path

TOYS = '''
"""A toy of each kind."""

import math
from typing import Literal

from cluster.local import LocalCluster
from cluster.config import ClusterConfig
from launcher.data.config import SourceSection, TaskShape
from launcher.data.source_table import SourceKind
from launcher.optim.config import OptimSection, WarmupSection
from launcher.optim.optimizer_table import OptimizerKind, StateSize
from launcher.optim.schedule import ScheduleKind
from launcher.recipe.extension import ClusterRow, Extension
from models.added_layer import LayerRow
from models.section import Section
from pydantic import BaseModel, ConfigDict


class GateConfig(Section):
    """A toy: each channel times a linear function of all."""

    groups: int = 1
    """Channels are cut into so many."""


class Inline(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    nice: int = 0


class SignDescentConfig(OptimSection):
    """The sign of the gradient."""

    type: Literal["sign-descent"]
    weight_decay: float = 0.0


class SquareConfig(WarmupSection):
    """A parabola to zero."""

    type: Literal["square"]


class CountingSource(SourceSection):
    """Sample i counts from i on."""

    type: Literal["counting"]
    modulus: int = 7

    def shape(self):
        return TaskShape(("tokens",), "tokens", vocab_size=self.modulus)


def _misfit(options, d_model):
    return f"groups {options.groups} does not divide d_model {d_model}" if d_model % options.groups else None


def _gate():
    from toys.code import GATE

    return GATE


def _optimizer(groups, config):
    from toys.code import SignDescent

    return SignDescent(groups)


def _counting(config, source, reader):
    from toys.code import open_counting

    return open_counting(config, source, reader)


extension = Extension(
    layers={"gate": LayerRow(kind=_gate, section=GateConfig, misfit=_misfit)},
    optimizers={
        "sign-descent": OptimizerKind(
            section=SignDescentConfig,
            build=_optimizer,
            update=lambda config: "sign",
            state=lambda config, shape: StateSize(sharded=0.0),
        )
    },
    schedules={
        "square": ScheduleKind(
            section=SquareConfig, multiplier=lambda config, past, steps: (1 - past / steps) ** 2
        )
    },
    sources={"counting": SourceKind(section=CountingSource, open=_counting)},
    clusters={"inline": ClusterRow(build=LocalCluster, section=Inline)},
)
'''

CODE = """
import numpy as np
import torch

from launcher.data.dataset import Batch, Dataset, Splits
from models.footprint import Footprint
from models.layer_table import LayerKind
from models.layers import Linear, linear_facts
from models.mixer import Mixer


class Gate(Mixer):
    def __init__(self, d_model):
        super().__init__()
        self.gate = Linear(d_model, d_model)

    def forward(self, x_BLH, mask_BL=None):
        return x_BLH * self.gate(x_BLH)

    def initial_state(self, batch_size, device):
        return ()

    def advance(self, x_BLH, state):
        return self(x_BLH), state


GATE = LayerKind(
    build=lambda c, m: Gate(c.d_model),
    facts=lambda c: linear_facts("gate"),
    flops=lambda c, seq_len: 2.0 * c.d_model**2,
    footprint=lambda c, step: Footprint(saved=8.0 * step.positions, working=0.0),
)


class SignDescent(torch.optim.Optimizer):
    def __init__(self, groups):
        super().__init__(groups, {})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.add_(p.grad.sign(), alpha=-group["lr"])


class Counting(Dataset):
    def __init__(self, source, seq_len, first):
        self._source, self._seq_len, self._first = source, seq_len, first

    @property
    def num_samples(self):
        return 1000

    def batch(self, indices):
        block = torch.from_numpy(indices)[:, None] + self._first + torch.arange(self._seq_len + 1)
        block = block % self._source.modulus
        return Batch(x=block[:, :-1].contiguous(), y=block[:, 1:].contiguous())


def open_counting(config, source, reader):
    train, validation = (Counting(source, config.seq_len, first) for first in (0, 1000))
    return Splits(train, validation, f"counting modulo {source.modulus}", "counting")
"""

RECIPE = """\
version: 1
name: toys
seed: 1
extensions: [toys]
model: {type: lm, vocab_size: 7, d_model: 16, num_layers: 2, pattern: [gate]}
data: {source: {type: counting}, seq_len: 16}
optim: {type: sign-descent, lr: 1e-2}
schedule: {type: square}
mup: {type: mup, base_width: 8}
parallel: {engine: torch, strategy: single}
train: {steps: 20, global_batch_size: 8, micro_batch_size: 8, validation_sequences: 8}
checkpoint: {every: 10}
track: {log_every: 1, mlflow: {enabled: false}}
cluster: {type: inline, nproc_per_node: 1, inline: {nice: 3}}
"""


def install(folder: Path, name: str, modules: dict[str, str], points: str | None = None) -> None:
    """What `pip install --target FOLDER` leaves: a package of that name and its metadata."""
    for module, text in modules.items():
        path = folder / name / module
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    points = f"[launcher.extensions]\n{name} = {name}:extension\n" if points is None else points
    (info / "entry_points.txt").write_text(points)


def install_toys(folder: Path) -> None:
    """A toy of each kind of row, as the distribution `toys`."""
    install(folder, "toys", {"__init__.py": TOYS, "code.py": CODE})
