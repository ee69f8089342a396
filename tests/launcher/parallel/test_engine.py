"""What all engines share: accuracy over the targets that count, buffers that are the same on every rank."""

import math
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from launcher.checkpoint.catalog import step_folder
from launcher.data.dataset import Batch
from launcher.parallel.engine import average_buffers, evaluate_model
from launcher.recipe.compile import compile_recipe
from launcher.recipe.schema import Recipe
from launcher.track.journal import read_journal, step_records
from launcher.world import World, world_on
from models.loss import IGNORED, scores
from tests.ranks import run_ranks
from tests.small_run import losses, make_run, train_rank

ALONE = world_on("cpu")
CLASSIFIER = """\
version: 1
name: expressions
seed: 7
model:
  type: classifier
  num_classes: 10
  vocab_size: 16
  encoder: {type: token}
  d_model: 16
  num_layers: 2
  norm: batch
  s4d: {d_state: 8, bidirectional: true}
data: {source: {type: listops, min_length: 4, max_depth: 3, max_args: 3}, seq_len: 24}
optim: {type: adamw, lr: 8e-3}
schedule: {type: cosine, warmup_steps: 4}
mup: {type: mup, base_width: 8}
parallel: {engine: torch, strategy: single}
train: {steps: 8, global_batch_size: 8, micro_batch_size: 4, validate_every: 4, validation_sequences: 30}
checkpoint: {every: 4, keep: 2}
track: {log_every: 1, mlflow: {enabled: false}}
cluster: {type: local, nproc_per_node: 1}
"""


class Table(nn.Module):
    """Says for every token what a table says."""

    def __init__(self, logits_VK: torch.Tensor) -> None:
        super().__init__()
        self.logits_VK = nn.Parameter(logits_VK)

    def forward(self, tokens_BL: torch.Tensor, targets: torch.Tensor, kernels: object) -> torch.Tensor:
        return scores(self.logits_VK[tokens_BL].flatten(0, 1), targets.flatten())


def test_loss_and_accuracy_are_of_the_targets_that_count() -> None:
    model = Table(torch.log(torch.tensor([[0.75, 0.25], [0.25, 0.75]])))
    x = torch.tensor([[0, 1, 1, 0], [1, 0, 0, 1]])
    y = torch.tensor([[0, 1, 0, IGNORED], [IGNORED] * 4])
    found = evaluate_model(model, [Batch(x, y), Batch(x[1:], y[1:])], ALONE, None)
    assert found.accuracy == pytest.approx(2 / 3)
    assert found.loss == pytest.approx(-(2 * math.log(0.75) + math.log(0.25)) / 3)


def classifier_recipe(*overrides: str) -> Recipe:
    return compile_recipe(CLASSIFIER, "expressions.yaml", overrides).recipe


def train_classifier(folder: Path, *overrides: str, ranks: int = 1) -> list[dict]:
    recipe = classifier_recipe(*overrides, f"cluster.nproc_per_node={ranks}")
    run_ranks(ranks, train_rank, recipe, make_run(folder, recipe))
    return read_journal(folder / "journal.jsonl")


def test_a_classifier_trains_and_is_scored_beside_trivial_baselines(tmp_path: Path) -> None:
    lines = train_classifier(tmp_path / "run", "train.steps=60", "checkpoint.every=60")
    curve = losses(step_records(tmp_path / "run/journal.jsonl"))
    assert curve[0] == pytest.approx(math.log(10), rel=1e-6), "a zero readout starts at ln 10"
    assert sum(curve[-10:]) / 10 < 2.25
    last = [line for line in lines if line["event"] == "validation"][-1]
    assert set(last["baselines"]) == {"most frequent value", "root operator alone"}
    hits = last["accuracy"] * 30
    assert hits == pytest.approx(round(hits)), "accuracy is a fraction of the 30 validation expressions"


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_running_averages_survive_a_checkpoint(tmp_path: Path, strategy: str) -> None:
    options = (f"parallel.strategy={strategy}",)
    whole = train_classifier(tmp_path / "whole", *options, ranks=2)
    train_classifier(tmp_path / "cut", *options, ranks=2)
    shutil.rmtree(step_folder(str(tmp_path / "cut"), 8))  # as if it had died after step 4's checkpoint
    resumed = train_classifier(tmp_path / "cut", *options, ranks=2)
    evals = [
        [r for r in lines if r["event"] == "validation" and r["step"] == 8][-1] for lines in (whole, resumed)
    ]
    assert resumed[-1]["attempt"] == 2
    assert [e["loss"] for e in evals] == [evals[0]["loss"]] * 2


def average_rank(world: World) -> list[float]:
    model = nn.BatchNorm1d(2)
    assert model.running_mean is not None
    model.running_mean.fill_(float(world.rank))
    del model.num_batches_tracked
    return average_buffers(model, world)["buffer/running_mean"].tolist()


def test_buffers_become_the_mean_over_ranks() -> None:
    assert run_ranks(2, average_rank) == [[0.5, 0.5]] * 2
