"""The largest jumps of loss and gradient norm: where a run was hurt, by which data, in which layer first."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, final

import numpy as np
from numpy.typing import NDArray

from launcher.track.history import History

Curve = Literal["loss", "grad_norm"]
_BEFORE: Final = 8
"""Logged steps whose median a value is compared with."""
_AROUND: Final = 200
"""Logged steps whose usual jump it is measured in: noise falls in the course of a run."""
LEAST: Final = 8.0
"""Usual jumps; of Gaussian noise, one step in 10^7 is as far."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Spike:
    """One jump."""

    curve: Curve
    step: int
    before: float
    """Median of the logged steps before it."""
    value: float
    size: float
    """In usual jumps of this curve around that step; infinite for what is not a number."""
    data_step: int | None
    """Which global batch of the data it was; None where the journal does not say."""
    layer: str | None
    """Whose gradient has grown most since the logged step before, and how many times."""


def find_spikes(history: History, most: int = 10) -> list[Spike]:
    """The largest ones, in order of their step; at most `most` of each curve."""
    found: list[Spike] = []
    curves: tuple[Curve, ...] = ("loss", "grad_norm")
    for curve in curves:
        values = history.columns[curve]
        before, sizes = jumps(values)
        rows = [int(row) for row in np.argsort(-sizes, kind="stable")[:most] if sizes[row] >= LEAST]
        for row in rows:
            step = int(history.columns["step"][row])
            found.append(
                Spike(
                    curve=curve,
                    step=step,
                    before=float(before[row]),
                    value=float(values[row]),
                    size=float(sizes[row]),
                    data_step=data_step_of(history.events, step),
                    layer=_grown_most(history.lines([row - 1, row])) if row else None,
                )
            )
    return sorted(found, key=lambda spike: spike.step)


def jumps(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(median of the values before each, how far it is above that in usual jumps); 0 for the first ones."""
    count = len(values)
    finite = np.isfinite(values)
    before, sizes = np.full(count, math.nan), np.where(finite, 0.0, math.inf)
    if count <= 2 * _BEFORE:
        return before, sizes
    # What is not a number must not hide what is: it counts as the value before it.
    held = np.maximum.accumulate(np.where(finite, np.arange(count), 0))
    filled = np.nan_to_num(values[held])
    windows = np.lib.stride_tricks.sliding_window_view(filled, _BEFORE)[:-1]
    before[_BEFORE:] = np.median(windows, axis=1)
    jump = filled[_BEFORE:] - before[_BEFORE:]
    for start in range(0, len(jump), _AROUND):
        # The last block is as long as the others: of few values, the usual jump is not known.
        first = max(0, min(start, len(jump) - _AROUND))
        usual = float(np.median(np.abs(jump[first : first + _AROUND])))
        block = jump[start : start + _AROUND]
        sizes[_BEFORE + start : _BEFORE + start + len(block)] = block / usual if usual > 0 else 0.0
    sizes[~finite] = math.inf
    return before, sizes


def data_step_of(events: Sequence[Mapping[str, Any]], step: int) -> int | None:
    """Number of the global batch that a step was trained on: rollbacks pass over data, resumes do not."""
    found = None
    for event in events:
        if "from_step" in event and event["from_step"] < step and "data_step" in event:
            found = event["data_step"] + step - 1 - event["from_step"]
    return found


def _grown_most(lines: Sequence[Mapping[str, Any]]) -> str | None:
    if len(lines) != 2:
        return None
    earlier, now = (line.get("grad_norm_layer") or {} for line in lines)
    growth = {name: norm / earlier[name] for name, norm in now.items() if earlier.get(name)}
    bad = [name for name, norm in now.items() if not math.isfinite(norm)]
    if bad:
        return f"{bad[0]}, not finite"
    if not growth:
        return None
    layer = max(growth, key=lambda name: growth[name])
    return f"{layer}, x {growth[layer]:.3g}"
