"""Successive halving: what each rung has, how long it is, what it costs, and who stays."""

import math
from dataclasses import replace

import pytest

from launcher.errors import UserError
from launcher.sweep.axes import read_axes
from launcher.sweep.draw import Draws
from launcher.sweep.grid import SweepPoint, load_points
from launcher.sweep.halving import Budget, compared, plan_rungs, survivors, tokens_per_step
from tests.launcher.sweep.test_best import result
from tests.launcher.sweep.test_run_sweep import SMALL


def points(*words: str, draws: int | None = None) -> tuple[SweepPoint, ...]:
    return load_points(
        str(SMALL), read_axes([*words, "train.steps=270"]), draws=None if draws is None else Draws(draws)
    )


def test_rungs_have_fewer_points_for_longer_at_equal_cost() -> None:
    rungs = plan_rungs(points("optim.lr=1e-4..1e-1", draws=27), Budget(None, 3))
    assert [(rung.count, rung.steps) for rung in rungs] == [(27, 30), (9, 90), (3, 270)]
    assert len({rung.count * rung.steps for rung in rungs}) == 1


@pytest.mark.parametrize("eta", [None, 2, 3])
def test_a_budget_is_spent_and_not_exceeded(eta: int | None) -> None:
    found = points("optim.lr=1e-4..1e-1", "model.d_model=32,64", "seed=1,2,3", draws=9)
    budget = Budget(5e7, eta)
    rungs = plan_rungs(found, budget)
    spent = sum(6 * rung.count * rung.steps for rung in rungs) * tokens_per_step(found[0].recipe)
    assert 0.97 * 5e7 <= spent <= 5e7


def test_a_rung_stretches_the_schedule() -> None:
    found = points("optim.lr=1e-4..1e-1", "schedule.warmup_steps=27", draws=9)
    first = plan_rungs(found, Budget(None, 3))[0]
    assert first.steps == 90
    assert {"train.steps=90", "schedule.warmup_steps=9", "checkpoint.every=90"} <= set(first.overrides)


def test_the_best_at_the_largest_width_stay_and_what_diverged_does_not() -> None:
    found = points("optim.lr=1e-3,2e-3,4e-3,8e-3", "model.d_model=32,64", "seed=1,2")
    order = {1e-3: 2.2, 2e-3: 2.0, 4e-3: math.inf, 8e-3: 2.1}
    results = {
        p.name: result(p, order[p.recipe.optim.lr] if p.recipe.model.d_model == 64 else 1.0) for p in found
    }
    kept = survivors(found, results, 3)
    assert [dict(one)["optim.lr"] for one in kept] == ["2e-3", "8e-3", "1e-3"]
    assert len(survivors(found, results, 4)) == 3, "a diverged point is a result, and the end of it"
    crashed = next(p for p in found if p.recipe.optim.lr == 2e-3 and p.recipe.model.d_model == 64)
    results[crashed.name] = replace(results[crashed.name], loss=math.nan, status="failed")
    assert compared(crashed) not in survivors(found, results, 4)


def test_a_budget_that_is_too_small_is_refused_with_what_would_do() -> None:
    with pytest.raises(UserError, match="at least 10 are needed"):
        plan_rungs(points("optim.lr=1e-4..1e-1", draws=27), Budget(1000.0, 3))
