"""The phase clock: in which phase the loop is, and the seconds spent in each. Torch-free."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, final, get_args

Phase = Literal["data", "step", "log", "validation", "checkpoint"]
"""Closed: whatever wants to know where the loop is asks the clock, and knows these names only."""
PHASES: tuple[Phase, ...] = get_args(Phase)


@dataclass(slots=True)
class Interval:
    """One stay in a phase."""

    seconds: float = 0.0
    """How long it took, once it is over."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Lap:
    """Seconds since the lap before."""

    total_s: float
    phases_s: dict[Phase, float]
    """By phase; what lies between phases is only in the total."""

    @property
    def training_s(self) -> float:
        """All but validation and checkpoints: what the steps of this lap took."""
        return self.total_s - self.phases_s["validation"] - self.phases_s["checkpoint"]


@final
class Clock:
    """Counts the seconds of each phase. One phase at a time; `now` may be replaced by a test."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._phase: Phase | None = None
        self._entered = self._lap_start = now()
        self._seconds = dict.fromkeys(PHASES, 0.0)

    @contextlib.contextmanager
    def phase(self, name: Phase) -> Iterator[Interval]:
        """Be in a phase until the block ends, however it ends."""
        assert self._phase is None, f"phase {name} begins inside phase {self._phase}; phases do not nest"
        interval = Interval()
        start = self._entered = self._now()
        self._phase = name
        try:
            yield interval
        finally:
            self._settle()
            self._phase = None
            interval.seconds = self._entered - start

    def lap(self) -> Lap:
        """Seconds since the last lap, those of a phase that is not over yet included; starts the next lap."""
        self._settle()
        lap = Lap(total_s=self._entered - self._lap_start, phases_s=self._seconds)
        self._lap_start = self._entered
        self._seconds = dict.fromkeys(PHASES, 0.0)
        return lap

    def _settle(self) -> None:
        """Credit the current phase with the time up to now."""
        now = self._now()
        if self._phase is not None:
            self._seconds[self._phase] += now - self._entered
        self._entered = now
