"""Every optimizer and the one schedule with a memory, through the real loop: sharded, saved, resumed."""

import json
import shutil
from pathlib import Path

import pytest

from launcher.checkpoint.catalog import step_folder
from launcher.recipe.schema import Recipe
from launcher.track.journal import step_records
from launcher.world import World
from tests.launcher.optim.test_groups import TYPES
from tests.ranks import run_ranks
from tests.small_run import losses, make_run, small_recipe, train_rank, train_run

SHORT = ("model.dropout=0", "train.steps=5", "train.validation_sequences=0", "model.pattern=[ffn, s4d]")
RATES = {"sgd": 0.3, "adagrad": 3e-2, "muon": 2e-2, "shampoo": 2e-2, "lion": 1e-3, "smorms3": 2e-3}


def optim(kind: str) -> str:
    return "optim=" + json.dumps({"type": kind, "lr": RATES.get(kind, 8e-3), **TYPES[kind]})


def train_all(world: World, folder: Path, recipes: dict[str, Recipe]) -> None:
    for kind, recipe in recipes.items():
        train_rank(world, recipe, str(folder / kind))


def losses_of_all(folder: Path, ranks: int, *overrides: str) -> dict[str, list[float]]:
    recipes = {
        kind: small_recipe(*SHORT, optim(kind), *overrides, f"cluster.nproc_per_node={ranks}")
        for kind in TYPES
    }
    for kind, recipe in recipes.items():
        make_run(folder / kind, recipe)
    run_ranks(ranks, train_all, folder, recipes, timeout_s=240.0)
    return {kind: losses(step_records(folder / kind / "journal.jsonl")) for kind in TYPES}


def test_every_optimizer_trains_sharded_as_in_one_process(tmp_path: Path) -> None:
    """Gradients differ by rounding of 1e-7; a sign or an eigenvector turns that into a step at single
    numbers."""
    alone = losses_of_all(tmp_path / "one", 1)
    spread = losses_of_all(tmp_path / "two", 2, "parallel.strategy=fsdp2")
    for kind, values in alone.items():
        assert len(values) == 5
        assert values[-1] < values[0], kind
        assert spread[kind] == pytest.approx(values, rel=1e-4), kind


def test_whole_and_sharded_state_resume_bit_for_bit(tmp_path: Path) -> None:
    """SOAP keeps both kinds on FSDP2, and a count that decides when its basis is turned."""
    settings = {"type": "soap", "lr": 8e-3, "precondition_every": 3, "others": {"lr": 8e-3}}
    options = (f"optim={json.dumps(settings)}", "parallel.strategy=fsdp2", "train.validation_sequences=0")
    whole = train_run(tmp_path / "whole", *options, ranks=2)
    train_run(tmp_path / "cut", *options, ranks=2)
    shutil.rmtree(step_folder(str(tmp_path / "cut"), 20))
    assert losses(train_run(tmp_path / "cut", *options, ranks=2)) == losses(whole)


def test_plateau_resumes_bit_for_bit(tmp_path: Path) -> None:
    """A threshold that no loss meets: it reduces at every second evaluation, before and after the cut."""
    schedule = {"type": "plateau", "warmup_steps": 2, "patience": 1, "threshold": 0.9, "factor": 0.3}
    options = (f"schedule={json.dumps(schedule)}", "train.validate_every=2", "model.dropout=0")
    whole = train_run(tmp_path / "whole", *options)
    train_run(tmp_path / "cut", *options)
    shutil.rmtree(step_folder(str(tmp_path / "cut"), 20))
    resumed = train_run(tmp_path / "cut", *options)
    for step, record in whole.items():
        assert resumed[step]["lr"] == record["lr"], step
        assert resumed[step]["loss"] == record["loss"], step
    rates = [whole[step]["lr"] for step in sorted(whole)]
    # evaluations at 2, 4, ..., 18: the first is best, the third and every second one after it reduce
    assert len(set(rates[2:])) == 5
    manifest = json.loads(Path(step_folder(str(tmp_path / "cut"), 10), "manifest.json").read_text())
    assert manifest["schedule"]["state"]["reduction"] == pytest.approx(0.09)


def test_every_groups_share_of_its_peak_is_equal_at_every_step(tmp_path: Path) -> None:
    records = train_run(tmp_path / "run", "mup.base_width=4", "train.validation_sequences=0")
    plan = json.loads((tmp_path / "run" / "plan.json").read_text())
    peaks = {group["name"]: group["lr"] for group in plan["groups"]}
    assert len(set(peaks.values())) == 3
    for step, record in records.items():
        shares = {record["lr_group"][name] / peak for name, peak in peaks.items()}
        # each is (peak x factor) / peak: two roundings
        assert max(shares) - min(shares) <= 4e-16, step
