"""A run small enough for a test, through the real loop: real text, real collectives, real checkpoints."""

from pathlib import Path
from typing import Any

from launcher import files, run_folder
from launcher.clock import Clock
from launcher.guard.stop import StopRequests
from launcher.mup.bsh import dump_base_shapes
from launcher.plan.plan import make_plan
from launcher.plan.plan_record import plan_record
from launcher.plan.worlds import planned_ranks
from launcher.recipe.compile import compile_recipe, dump_recipe
from launcher.recipe.schema import Recipe
from launcher.run_folder import LocalMirror
from launcher.track.journal import step_records
from launcher.train import Result, train
from launcher.world import World
from tests.ranks import run_ranks

RECIPE = """\
version: 1
name: small
seed: 7
model:
  type: lm
  vocab_size: 256
  d_model: 16
  num_layers: 2
  pattern: [s4d]
  dropout: 0.1
  s4d: {d_state: 8, init: legs}
data: {source: {type: python-stdlib}, seq_len: 32}
optim: {type: adamw, lr: 8e-3, grad_clip: 1.0}
schedule: {type: cosine, warmup_steps: 4, min_lr_ratio: 0.1}
mup: {type: mup, base_width: 8}
parallel: {engine: torch, strategy: single}
train: {steps: 20, global_batch_size: 8, micro_batch_size: 4, validate_every: 10, validation_sequences: 8}
checkpoint: {every: 10}
track: {log_every: 1, mlflow: {enabled: false}}
cluster: {type: local, nproc_per_node: 1}
"""


def small_recipe(*overrides: str) -> Recipe:
    """The small recipe with some values replaced."""
    return compile_recipe(RECIPE, "small.yaml", overrides).recipe


def make_run(folder: Path, recipe: Recipe) -> str:
    """A run folder as `launch` leaves it before the ranks start."""
    plan = make_plan(recipe, planned_ranks(recipe))
    run_folder.freeze(
        str(folder),
        recipe=dump_recipe(recipe),
        source=None,
        plan=plan_record(plan),
        shapes=dump_base_shapes(plan.parameters.base_shapes),
        script="",
        environment={},
        diff="",
    )
    return str(folder)


def train_rank(world: World, recipe: Recipe, run_url: str) -> Result:
    """What one rank does, without a console or MLflow."""
    local = files.local_path(run_url)
    assert local is not None
    mirror = LocalMirror(local, run_url)
    return train(recipe, run_url, world, stop=StopRequests(), clock=Clock(), mirror=mirror, mlflow=None)


def train_run(folder: Path, *overrides: str, ranks: int = 1) -> dict[int, dict[str, Any]]:
    """Train (or continue) a run on some gloo ranks; returns the journal's record of every step."""
    recipe = small_recipe(*overrides, f"cluster.nproc_per_node={ranks}")
    run_url = make_run(folder, recipe)
    run_ranks(ranks, train_rank, recipe, run_url)
    return step_records(folder / "journal.jsonl")


def losses(records: dict[int, dict[str, Any]]) -> list[float]:
    """The logged losses in the order of steps."""
    return [records[step]["loss"] for step in sorted(records)]
