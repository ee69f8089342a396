"""The phase clock: every second of a phase is counted once."""

from collections.abc import Iterator

import pytest

from launcher.clock import Clock


def ticking(*times: float) -> Clock:
    ticks: Iterator[float] = iter(times)
    return Clock(lambda: next(ticks))


def test_a_lap_holds_the_seconds_of_each_phase_and_of_what_lies_between() -> None:
    clock = ticking(0, 1, 3, 4, 9, 10)
    with clock.phase("data") as reading:
        pass
    with clock.phase("validation"):
        pass
    lap = clock.lap()
    assert (lap.total_s, lap.phases_s["data"], lap.phases_s["validation"]) == (10, 2, 5)
    assert lap.training_s == 5
    assert reading.seconds == 2


def test_a_lap_inside_a_phase_splits_it_between_two_laps() -> None:
    clock = ticking(0, 0, 3, 7, 7)
    with clock.phase("log") as whole:
        assert clock.lap().phases_s["log"] == 3
    assert clock.lap().phases_s["log"] == 4
    assert whole.seconds == 7


def test_a_phase_that_fails_is_over_and_counted() -> None:
    clock = ticking(0, 0, 2, 2)
    with pytest.raises(OSError, match="gone"), clock.phase("checkpoint"):
        raise OSError("gone")
    assert clock.lap().phases_s["checkpoint"] == 2


def test_phases_do_not_nest() -> None:
    clock = ticking(0, 0, 0)
    with pytest.raises(AssertionError, match="do not nest"), clock.phase("step"), clock.phase("data"):
        pass
