"""What happened between two logged steps: times on the host, clipping on the device."""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import final

import torch

from launcher.parallel.gradients import GradientNorms
from launcher.track.records import StepRecord


@final
class StepMetrics:
    """Counts steps since the last record. `add` never waits for the device; `record` does."""

    def __init__(self, tokens_per_step: int, groups: Mapping[str, Sequence[str]]) -> None:
        self._tokens_per_step = tokens_per_step
        self._group_of = {name: group for group, names in groups.items() for name in names}
        self._reset()

    def _reset(self) -> None:
        self._start = time.perf_counter()
        self._steps = 0
        self._wait_s = 0.0
        self._clipped: torch.Tensor | None = None

    def add(self, norms: GradientNorms, wait_s: float) -> None:
        """Count one step."""
        clipped = norms.coefficient < 1.0
        self._clipped = clipped.int() if self._clipped is None else self._clipped + clipped
        self._steps += 1
        self._wait_s += wait_s

    def exclude(self, seconds: float) -> None:
        """Take time that was no training (an evaluation, a checkpoint) out of the step time."""
        self._start += seconds

    def record(
        self, step: int, *, loss: float, lr: float, lr_group: dict[str, float], norms: GradientNorms
    ) -> StepRecord:
        """The record of the step just made, over the steps since the last one; starts counting anew."""
        assert self._clipped is not None, "record comes after add"
        total, coefficient = float(norms.total), float(norms.coefficient)
        clip_fraction = float(self._clipped) / self._steps
        gradients = named(norms.names, norms.per_parameter.tolist())
        # Reading the above has waited for the device: the time is that of finished steps.
        step_time_s = (time.perf_counter() - self._start) / self._steps
        device = norms.total.device
        record = StepRecord(
            step=step,
            loss=loss,
            lr=lr,
            lr_group=lr_group,
            grad_norm=total,
            grad_norm_clipped=total * coefficient,
            clip_coefficient=coefficient,
            clip_fraction=clip_fraction,
            tokens=step * self._tokens_per_step,
            tokens_per_s=self._tokens_per_step / step_time_s,
            step_time_s=step_time_s,
            data_wait_s=self._wait_s / self._steps,
            grad_norm_group=combine_norms(gradients, self._group_of.__getitem__),
            grad_norm_layer=combine_norms(gradients, layer_of),
            update_ratio_group=self._update_ratios(norms, self._group_of.__getitem__),
            update_ratio_layer=self._update_ratios(norms, layer_of),
            memory_gb=torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else None,
        )
        self._reset()
        return record

    @staticmethod
    def _update_ratios(norms: GradientNorms, label: Callable[[str], str]) -> dict[str, float] | None:
        if norms.updates is None:
            return None
        updates = named(norms.names, norms.updates.update.tolist())
        weights = named(norms.names, norms.updates.weight.tolist())
        return divide(combine_norms(updates, label), combine_norms(weights, label))


def layer_of(name: str) -> str:
    """Where a parameter sits: `layers.3` for `layers.3.s4d.ssm.C`, else its first part (`embedding`)."""
    parts = name.split(".")
    return ".".join(parts[:2]) if parts[0] == "layers" else parts[0]


def combine_norms(norms: Mapping[str, float], label: Callable[[str], str]) -> dict[str, float]:
    """L2 norm over all parameters of one label, from those of each parameter."""
    squares: dict[str, float] = {}
    for name, norm in norms.items():
        squares[label(name)] = squares.get(label(name), 0.0) + norm * norm
    return {key: math.sqrt(square) for key, square in squares.items()}


def divide(upper: Mapping[str, float], lower: Mapping[str, float]) -> dict[str, float]:
    """Ratios by label; left out where the divisor is zero: a readout that starts at zero weighs nothing."""
    return {key: value / lower[key] for key, value in upper.items() if lower[key] > 0.0}


def named(names: Iterable[str], values: Iterable[float]) -> dict[str, float]:
    """Values by the names that they belong to, in the same order."""
    return dict(zip(names, values, strict=True))
