"""The result of each point of a sweep, read from its run folder. Torch-free."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from launcher.run_folder import JOURNAL
from launcher.sweep.axes import CURVE_KEYS
from launcher.sweep.grid import SweepPoint
from launcher.track.journal import read_journal, step_records

Status = Literal["finished", "diverged", "failed", "missing"]

_TAIL = 0.1
"""Last fraction of the steps, over which the training loss of a point without validation is averaged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PointResult:
    """The result of one point, finished or not."""

    name: str
    settings: Mapping[str, str]
    series: str
    """Settings that it shares with the points that differ from it only in width, learning rate or seed."""
    status: Status
    d_model: int
    lr: float
    seed: int
    loss: float
    """Validation loss after the last step; without validation data, mean training loss of the last tenth.
    Infinite if it diverged, NaN if there is none."""
    validation: bool
    seconds: float
    steps: tuple[int, ...] = ()
    losses: tuple[float, ...] = ()
    """Training loss at the logged steps."""
    error: str = ""


def is_finished(folder: Path) -> bool:
    """Whether a point has been trained to its last step."""
    journal = folder / JOURNAL
    return journal.exists() and any(
        line["event"] == "end" and line["status"] == "FINISHED" for line in read_journal(journal)
    )


def read_result(point: SweepPoint, folder: Path, error: str = "") -> PointResult:
    """Read a point's journal; `error`: why its training stopped, if it did."""
    recipe = point.recipe
    finished = is_finished(folder)
    lines = read_journal(folder / JOURNAL) if (folder / JOURNAL).exists() else []
    steps = step_records(folder / JOURNAL) if lines else {}
    curve = {step: float(record["loss"]) for step, record in sorted(steps.items())}
    validations = [float(line["loss"]) for line in lines if line["event"] == "validation"]
    loss = (validations[-1] if validations else _tail_mean(curve)) if finished else math.nan
    # A point that overflowed has reached its end, and is a result: the rate is too high. Only a point without
    # an end has no loss.
    status: Status = "finished" if finished else ("failed" if error else "missing")
    if finished and not math.isfinite(loss):
        status, loss = "diverged", math.inf
    return PointResult(
        name=point.name,
        settings=dict(point.settings),
        series=_series(point),
        status=status,
        d_model=recipe.model.d_model,
        lr=recipe.optim.lr,
        seed=recipe.seed,
        loss=loss,
        validation=bool(validations),
        seconds=sum(_attempt_seconds(lines)),
        steps=tuple(curve),
        losses=tuple(curve.values()),
        error=error,
    )


def _series(point: SweepPoint) -> str:
    """The settings without width, rate and seed; of the parametrization only the name."""
    parts: list[str] = []
    for key, value in point.settings:
        if key in ("mup", "mup.type"):
            parts.append(point.recipe.mup.type)
        elif key not in CURVE_KEYS:
            parts.append(f"{key.rsplit('.', 1)[-1]}={value}")
    return ", ".join(parts)


def _tail_mean(curve: Mapping[int, float]) -> float:
    if not curve:
        return math.nan
    # A mean, because one batch's loss is noisier than the differences between rates.
    last = max(curve)
    tail = [loss for step, loss in curve.items() if step > last * (1 - _TAIL)]
    return sum(tail) / len(tail)


def _attempt_seconds(lines: Sequence[Mapping[str, Any]]) -> list[float]:
    """Wall-clock time of each attempt that has ended."""
    starts = {line["attempt"]: line["time"] for line in lines if line["event"] == "start"}
    ends = {line["attempt"]: line["time"] for line in lines if line["event"] == "end"}
    return [end - starts[attempt] for attempt, end in ends.items() if attempt in starts]


def result_record(result: PointResult) -> dict[str, Any]:
    """The result as plain data."""
    return asdict(result)


def result_from_record(record: Mapping[str, Any]) -> PointResult:
    """Inverse of result_record."""
    fields = dict(record)
    fields["loss"] = float(fields["loss"])
    fields["steps"] = tuple(fields["steps"])
    fields["losses"] = tuple(float(loss) for loss in fields["losses"])
    return PointResult(**fields)
