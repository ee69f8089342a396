"""Schedules: the factor of every step, and what of it has to be remembered."""

import json
import math

import pytest
from pydantic import TypeAdapter, ValidationError

from launcher.optim.config import ScheduleConfig
from launcher.optim.schedule import Schedule, lr_multiplier

TOTAL = 21
KINDS: dict[str, dict[str, object]] = {
    "cosine": {"min_lr_ratio": 0.1},
    "linear": {"min_lr_ratio": 0.1},
    "constant": {},
    "wsd": {"decay_steps": 6, "min_lr_ratio": 0.1},
    "sine_restarts": {"period": 8},
    "plateau": {"patience": 1},
}


def config(kind: str, **fields: object) -> ScheduleConfig:
    return TypeAdapter(ScheduleConfig).validate_python({"type": kind, **KINDS[kind], **fields})


def curve(kind: str, **fields: object) -> list[float]:
    return [lr_multiplier(config(kind, **fields), step, TOTAL) for step in range(TOTAL)]


@pytest.mark.parametrize("kind", KINDS)
def test_warmup_rises_evenly_to_the_peak(kind: str) -> None:
    assert curve(kind, warmup_steps=4)[:4] == [0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize("kind", KINDS)
def test_factors_stay_between_zero_and_one(kind: str) -> None:
    assert all(0 <= factor <= 1 for warmup in (0, 3) for factor in curve(kind, warmup_steps=warmup))


@pytest.mark.parametrize("kind", ["cosine", "linear", "wsd"])
def test_the_last_step_has_the_final_ratio(kind: str) -> None:
    # 0.1 + 0.9 * shape, shape 0 up to the rounding of cos(pi)
    assert curve(kind, warmup_steps=4)[-1] == pytest.approx(0.1, abs=1e-15)


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant", "plateau"])
def test_the_first_step_after_warmup_is_the_peak(kind: str) -> None:
    assert curve(kind, warmup_steps=4)[4] == 1.0


def test_cosine_is_half_way_in_the_middle() -> None:
    assert curve("cosine")[10] == pytest.approx(0.55, abs=1e-15)


def test_linear_falls_by_equal_steps() -> None:
    factors = curve("linear", warmup_steps=4)
    falls = [before - after for before, after in zip(factors[4:], factors[5:], strict=False)]
    assert falls == pytest.approx([0.9 / 16] * 16)


def test_wsd_is_stable_and_then_falls_by_equal_steps() -> None:
    factors = curve("wsd", warmup_steps=2)
    assert set(factors[2:15]) == {1.0}
    falls = [before - after for before, after in zip(factors[14:], factors[15:], strict=False)]
    assert falls == pytest.approx([0.9 / 6] * 6)


def test_sine_restarts_from_zero_and_peaks_in_the_middle_of_each_cycle() -> None:
    factors = curve("sine_restarts")
    assert factors[0] == factors[8] == factors[16] == 0.0
    assert factors[4] == factors[12] == 1.0
    assert factors[2] == pytest.approx(math.sin(math.pi / 4))


def test_sine_of_one_step_would_be_zero_for_ever_and_is_refused() -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 2"):
        config("sine_restarts", period=1)


def test_plateau_reduces_after_more_than_patience_evaluations_without_a_better_loss() -> None:
    schedule = Schedule(config("plateau", factor=0.5, patience=1), TOTAL)
    assert [schedule.observe(loss) for loss in (3.0, 2.0, 2.0, 2.0)] == [False, False, False, True]
    assert schedule.lr_multiplier(10) == 0.5
    assert [schedule.observe(loss) for loss in (1.0, 1.0, 1.0)] == [False, False, True]
    assert schedule.lr_multiplier(10) == 0.25


def test_a_gain_below_the_threshold_is_none() -> None:
    schedule = Schedule(config("plateau", patience=0, threshold=0.1), TOTAL)
    assert [schedule.observe(loss) for loss in (1.0, 0.95)] == [False, True]


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_is_never_the_best(loss: float) -> None:
    schedule = Schedule(config("plateau", patience=1), TOTAL)
    assert [schedule.observe(value) for value in (loss, loss)] == [False, True]
    assert schedule.state()["best"] is None
    assert schedule.observe(2.0) is False
    assert schedule.state()["best"] == 2.0


def test_a_saved_best_loss_that_is_not_finite_is_forgotten() -> None:
    schedule = Schedule(config("plateau", patience=1), TOTAL)
    schedule.restore({"best": math.nan, "num_bad": 1, "reduction": 0.5}, TOTAL)
    assert schedule.state() == {"best": None, "num_bad": 1, "reduction": 0.5}


def test_plateau_stops_at_its_floor() -> None:
    schedule = Schedule(config("plateau", patience=0, min_lr_ratio=0.4), TOTAL)
    assert [schedule.observe(1.0) for _ in range(4)] == [False, True, True, False]
    assert schedule.lr_multiplier(9) == 0.4


def test_plateau_continues_exactly_from_its_state_in_json() -> None:
    losses = [2 / 3, 0.1 + 0.2, 0.3, 1 / 3, 0.5, 0.29, 0.4, 0.4]
    whole = Schedule(config("plateau", factor=1 / 3), TOTAL)
    for cut in range(len(losses)):
        first, second = (Schedule(config("plateau", factor=1 / 3), TOTAL) for _ in range(2))
        for loss in losses[:cut]:
            first.observe(loss)
        second.restore(json.loads(json.dumps(first.state())), TOTAL)
        assert second.state() == first.state()
        assert [first.observe(loss) for loss in losses[cut:]] == [
            second.observe(loss) for loss in losses[cut:]
        ]
        assert second.state() == first.state()
    assert whole.state() == {"best": None, "num_bad": 0, "reduction": 1.0}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "plateau"])
def test_other_schedules_have_no_state_of_a_plateau(kind: str) -> None:
    schedule = Schedule(config(kind), TOTAL)
    schedule.restore(
        {"best": 1.0, "num_bad": 9, "reduction": 0.1}, TOTAL
    )  # a plateau's, of the recipe's past
    assert schedule.observe(9.0) is False
    assert schedule.state() == {"validation_loss": 9.0}, "by which the best checkpoint is found"
    assert schedule.lr_multiplier(5) == lr_multiplier(config(kind), 5, TOTAL)
