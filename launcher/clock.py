"""The phase clock: the current phase of the loop, and the seconds spent in each phase. Torch-free."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, final, get_args

if TYPE_CHECKING:
    from launcher.guard.beacon import Beacon

Phase = Literal["data", "step", "log", "validation", "checkpoint"]
"""A closed set: code that needs to know where the loop is asks the clock, and there are only these names."""
PHASES: tuple[Phase, ...] = get_args(Phase)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Traced:
    """What was recorded of some steps."""

    step: int
    """The first of them."""
    steps: int
    seconds: Mapping[str, float]
    """A step, on this rank: of each phase, and of communication."""
    files: Sequence[str]
    """Of this rank, relative to the run."""


class Tracer(Protocol):
    """Who records what the processors do in some steps."""

    def begin_step(self, step: int) -> None:
        """A step with this number begins."""

    def inside(self, name: Phase) -> contextlib.AbstractContextManager[object]:
        """A phase, as it shall be seen in the record."""

    def take(self) -> Traced | None:
        """What was recorded since this was asked last."""


@dataclass(slots=True)
class Interval:
    """One stay in a phase."""

    seconds: float = 0.0
    """How long it took, after its end."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Lap:
    """Seconds since the previous lap."""

    total_s: float
    phases_s: dict[Phase, float]
    """By phase; time between phases counts only in the total."""

    @property
    def training_s(self) -> float:
        """Without validation and checkpoints: the time that the steps of this lap took."""
        return self.total_s - self.phases_s["validation"] - self.phases_s["checkpoint"]


@final
class Clock:
    """Counts the seconds of each phase, one phase at a time. Tests can replace `now`."""

    def __init__(
        self,
        now: Callable[[], float] = time.perf_counter,
        beacon: "Beacon | None" = None,
        tracer: Tracer | None = None,
    ) -> None:
        self._now = now
        self._beacon = beacon
        self._tracer = tracer
        self._phase: Phase | None = None
        self._entered = self._lap_start = now()
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self.first_step_s: float | None = None
        """The first stay in the phase "step", which may compile."""

    @property
    def is_inside(self) -> bool:
        """Whether a phase has begun and not ended."""
        return self._phase is not None

    @contextlib.contextmanager
    def phase(self, name: Phase, step: int | None = None) -> Iterator[Interval]:
        """Be in a phase until the end of the block, also after an error. A new step gives its number."""
        assert self._phase is None, f"phase {name} begins inside phase {self._phase}; phases do not nest"
        if self._tracer is not None and step is not None:
            self._tracer.begin_step(step)
        interval = Interval()
        start = self._entered = self._now()
        self._phase = name
        if self._beacon is not None:
            self._beacon.enter(name, step)
        try:
            with contextlib.nullcontext() if self._tracer is None else self._tracer.inside(name):
                yield interval
        finally:
            self._settle()
            self._phase = None
            interval.seconds = self._entered - start
            if name == "step" and self.first_step_s is None:
                self.first_step_s = interval.seconds

    def traced(self) -> Traced | None:
        """Steps whose record has ended since this was asked last."""
        return None if self._tracer is None else self._tracer.take()

    def lap(self) -> Lap:
        """Seconds since the last lap, including a phase that has not ended yet; starts the next lap."""
        # It is called inside the phase "log". The seconds of that phase so far belong to this lap, the rest
        # to the next one: laps add up to the whole time.
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
