"""Where the seconds of a run went, over all its attempts, from its journal. Pure; torch-free."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, final, get_args

Part = Literal[
    "queue",
    "start",
    "first step",
    "step",
    "data wait",
    "log",
    "validation",
    "checkpoint",
    "lost work",
    "other",
    "idle",
]
"""A closed set. `first step` is each attempt's, with compilation; `lost work` had to be trained again after a
resume or a rollback; `idle` is between attempts, with what a killed one had not logged yet."""
PARTS: tuple[Part, ...] = get_args(Part)
_PHASES: Mapping[str, Part] = {
    "data": "data wait",
    "step": "step",
    "log": "log",
    "validation": "validation",
    "diagnosis": "validation",
    "checkpoint": "checkpoint",
    "saving": "checkpoint",
}


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """Seconds by part; they add up to `total_s`."""

    seconds: Mapping[Part, float]

    @property
    def total_s(self) -> float:
        """From the first submission to the last line."""
        return sum(self.seconds.values())

    @property
    def goodput(self) -> float:
        """Fraction of the time that went into steps that were kept."""
        return self.seconds["step"] / self.total_s if self.total_s else 0.0

    @property
    def largest_first(self) -> list[tuple[Part, float, float]]:
        """(part, seconds, share of the whole), without parts that took no time."""
        spent = sorted(self.seconds.items(), key=lambda item: -item[1])
        return [(part, s, s / self.total_s) for part, s in spent if s > 0]

    def as_fields(self) -> dict[str, object]:
        """For a journal line."""
        named = {f"{part.replace(' ', '_')}_s": round(value, 3) for part, value in self.seconds.items()}
        return {"goodput": round(self.goodput, 4), **named}


@final
@dataclass(slots=True)
class _Span:
    """Time between two lines of one attempt, and how it was spent."""

    step: int
    """The step whose line ends it."""
    parts: dict[Part, float] = field(default_factory=dict)


def make_ledger(records: Iterable[Mapping[str, Any]]) -> Ledger:
    """Attribute every second between the first line and the last one, and the wait in the queue before."""
    spans: list[_Span] = []
    first_steps: dict[int, float] = {}
    before: float | None = None
    last_step = 0
    for record in records:
        before = record["time"] if before is None else before
        now, event = max(record["time"], before), record["event"]
        passed, before = now - before, now
        span = _Span(step=last_step)
        if event == "start":
            span.parts["idle"] = passed
            if (submitted := record.get("submitted")) is not None and not spans:
                span.parts["queue"] = max(0.0, record["time"] - submitted)
        elif event == "begin":
            span.parts["start"] = passed
        elif event == "end" and record["class"] in _SETTLED:
            span.parts["idle"] = passed  # written by somebody else, whenever they came by
        elif event == "checkpoint" and "write_s" in record:
            span.parts["step"] = passed  # it was written beside training
        elif event == "step":
            span = _of_step(record, passed, first_steps)
        else:
            named = _PHASES.get(event, "other")
            known = min(passed, float(record.get("seconds", 0.0)))
            span.parts[named] = known
            span.parts["other"] = span.parts.get("other", 0.0) + passed - known
        spans.append(span)
        if len(spans) > _MOST_SPANS:
            spans = _halve(spans)
        if "from_step" in record:
            _lose(spans, record["from_step"])
            last_step = record["from_step"]
        last_step = record["step"] if event == "step" else last_step
    return Ledger(seconds={part: sum(span.parts.get(part, 0.0) for span in spans) for part in PARTS})


_MOST_SPANS = 100_000
"""Beyond it neighbours are counted together: where work was lost is then known less exactly."""


def _halve(spans: Sequence[_Span]) -> list[_Span]:
    halved = []
    for first, second in zip(spans[::2], spans[1::2], strict=False):
        parts = {
            part: first.parts.get(part, 0.0) + second.parts.get(part, 0.0)
            for part in first.parts.keys() | second.parts.keys()
        }
        halved.append(_Span(step=max(first.step, second.step), parts=parts))
    return halved + list(spans[len(halved) * 2 :])


_SETTLED = ("node lost", "hang")
"""Endings that an attempt cannot write itself."""


def _of_step(record: Mapping[str, Any], passed: float, first_steps: dict[int, float]) -> _Span:
    """The time up to a step's line, by the phases of its lap; laps also cover lines in between."""
    lap: Mapping[str, float] = record.get("phases_s", {})
    # Validations and checkpoints since the last step's line have lines of their own.
    inside = {_PHASES[name]: seconds for name, seconds in lap.items() if name in ("data", "step", "log")}
    inside = inside or {"step": passed}
    total = sum(inside.values())
    scale = min(1.0, passed / total) if total else 0.0
    parts: dict[Part, float] = {part: seconds * scale for part, seconds in inside.items()}
    parts["other"] = max(0.0, passed - sum(parts.values()))
    attempt = record["attempt"]
    if attempt not in first_steps and "first_step_s" in record:
        extra = max(0.0, min(parts.get("step", 0.0), record["first_step_s"]))
        parts["first step"] = extra
        parts["step"] = parts.get("step", 0.0) - extra
    first_steps.setdefault(attempt, 0.0)
    return _Span(step=record["step"], parts=parts)


def _lose(spans: Sequence[_Span], from_step: int) -> None:
    """What was trained after a step from which the run continues has to be trained again."""
    for span in spans:
        if span.step > from_step:
            for part in ("step", "data wait", "log", "first step"):
                span.parts["lost work"] = span.parts.get("lost work", 0.0) + span.parts.pop(part, 0.0)
