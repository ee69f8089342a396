"""A run with bad updates: recorded, taken back, or ended, and what it has saved stays good."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from launcher.checkpoint.catalog import find_newest, list_steps
from launcher.ending import NonFiniteError
from launcher.parallel import torch_engine
from launcher.track.journal import read_journal, step_records
from tests.ranks import run_ranks
from tests.small_run import losses, make_run, small_recipe, train_rank

PLAIN = torch_engine.loss_sum
MICROS = 2  # of the small recipe


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Give steps of an attempt (counted from 0, also those after a rollback) losses that are not finite."""

    def set_steps(steps: set[int], die_at: int | None = None) -> None:
        calls = [0]

        def loss_sum(*arguments: Any) -> torch.Tensor:
            step, calls[0] = calls[0] // MICROS, calls[0] + 1
            if step == die_at:
                raise ZeroDivisionError("killed here")
            return PLAIN(*arguments) * (float("nan") if step in steps else 1.0)

        monkeypatch.setattr(torch_engine, "loss_sum", loss_sum)

    return set_steps


def train(folder: Path, *overrides: str) -> list[dict[str, Any]]:
    recipe = small_recipe("train.steps=30", "model.dropout=0", *overrides)
    run_ranks(1, train_rank, recipe, make_run(folder, recipe))
    return read_journal(folder / "journal.jsonl")


def of(records: list[dict[str, Any]], event: str) -> list[dict[str, Any]]:
    return [record for record in records if record["event"] == event]


def test_one_bad_step_is_recorded_and_the_others_are_applied(
    tmp_path: Path, poison: Callable[..., None]
) -> None:
    poison({7})
    records = train(tmp_path)
    assert [(r["step"], r["data_step"], r["skips"]) for r in of(records, "skipped")] == [(8, 7, 1)]
    assert of(records, "end")[-1]["class"] == "done"
    values = losses(step_records(tmp_path / "journal.jsonl"))
    assert [value != value for value in values] == [step == 7 for step in range(30)]
    assert values[-1] < values[0] - 0.5


def test_the_last_step_of_all_is_looked_at_as_well(tmp_path: Path, poison: Callable[..., None]) -> None:
    poison({28, 29})
    records = train(tmp_path)
    assert [r["step"] for r in of(records, "skipped")] == [29, 30]


def test_a_row_of_bad_steps_goes_back_to_before_it_and_past_its_data(
    tmp_path: Path, poison: Callable[..., None]
) -> None:
    poison(set(range(18, 23)))  # a checkpoint at 20 lies within the row
    records = train(tmp_path)
    (back,) = of(records, "rollback")
    # Steps 19 to 23 are bad; that the fifth was is known when step 24 has been taken too.
    assert (back["from_step"], back["data_step"], back["rollbacks"]) == (10, 24, 1)
    assert of(records, "end")[-1]["class"] == "done"
    saved, rejected = find_newest(str(tmp_path), verify=True)
    assert saved is not None
    assert not rejected
    assert (saved.step, saved.manifest.data_step, saved.manifest.rollbacks) == (30, 44, 1)
    assert list((tmp_path / "quarantine").iterdir()), "the checkpoint from within the row is kept aside"


def test_a_resume_after_a_rollback_reads_what_the_run_would_have_read(
    tmp_path: Path, poison: Callable[..., None]
) -> None:
    bad = set(range(12, 17))
    poison(bad)
    train(tmp_path / "whole")
    poison(bad, die_at=21)
    with pytest.raises(AssertionError, match="killed here"):
        train(tmp_path / "cut")
    poison(set())
    records = train(tmp_path / "cut")
    assert of(records, "begin")[-1]["from_step"] == 10
    found, expected = (step_records(tmp_path / name / "journal.jsonl") for name in ("cut", "whole"))
    assert losses(found) == losses(expected)


def test_too_many_rollbacks_end_the_run_with_its_good_checkpoints(
    tmp_path: Path, poison: Callable[..., None]
) -> None:
    poison(set(range(15, 1000)))
    with pytest.raises(AssertionError, match=r"no update could be applied since step 11, after 2 rollbacks"):
        train(tmp_path)
    records = read_journal(tmp_path / "journal.jsonl")
    assert len(of(records, "rollback")) == 2
    assert of(records, "end")[-1] | {"class": "non-finite", "status": "FAILED"} == of(records, "end")[-1]
    saved, _ = find_newest(str(tmp_path), verify=True)
    assert saved is not None
    assert saved.step == 10


def test_without_a_checkpoint_a_row_ends_the_run(tmp_path: Path, poison: Callable[..., None]) -> None:
    poison(set(range(1000)))
    with pytest.raises(AssertionError, match="since step 1, and there is no checkpoint to go back to"):
        train(tmp_path)
    assert list_steps(str(tmp_path)) == []


def test_weights_that_are_not_finite_are_never_saved_over_good_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = torch.optim.AdamW.step
    calls = [0]

    def ruin(optimizer: torch.optim.AdamW) -> None:
        step(optimizer)
        calls[0] += 1
        if calls[0] == 20:  # after the one that makes the moments, the 19th
            optimizer.param_groups[0]["params"][0].data.view(-1)[3] = float("inf")

    monkeypatch.setattr(torch.optim.AdamW, "step", ruin)
    with pytest.raises(AssertionError, match=NonFiniteError.__name__):
        train(tmp_path, "guard.max_skips=50")
    saved, _ = find_newest(str(tmp_path), verify=True)
    assert saved is not None
    assert saved.step == 10
