"""The shipped task recipes learn what they are for, cut down to seconds; docs/tasks.md has the whole runs."""

from pathlib import Path

import pytest

from launcher.recipe.compile import load_recipe
from launcher.track.journal import read_journal
from tests.ranks import run_ranks
from tests.small_run import make_run, train_rank

ROOT = Path(__file__).parents[1]
ALONE = ("parallel.strategy=single", "cluster.nproc_per_node=1", "track.mlflow.enabled=false")


def accuracy(folder: Path, name: str, *overrides: str) -> tuple[float, dict[str, float]]:
    """Held-out accuracy after a short training in one process, and what is no learning."""
    recipe = load_recipe(str(ROOT / "recipes" / f"{name}.yaml"), (*ALONE, *overrides)).recipe
    run_ranks(1, train_rank, recipe, make_run(folder, recipe))
    last = [line for line in read_journal(folder / "journal.jsonl") if line["event"] == "eval"][-1]
    return last["accuracy"], last["baselines"]


# Bounds are well below what three seeds reached: digits .90, .87 and .83, copying 1.00 each time.
@pytest.mark.parametrize(
    ("name", "overrides", "bound"),
    [
        ("s4d-digits", ("train.steps=120", "train.micro_batch_size=32"), 0.7),
        ("s4d-copying", ("train.steps=100", "data.seq_len=64", "train.micro_batch_size=32"), 0.9),
    ],
)
def test_a_task_recipe_learns(tmp_path: Path, name: str, overrides: tuple[str, ...], bound: float) -> None:
    reached, baselines = accuracy(tmp_path / name, name, *overrides)
    assert max(baselines.values()) < 0.2
    assert reached > bound
