"""What happened between two logged steps: times on the host, clipping on the device."""

import time
from typing import final

import torch

from launcher.parallel.gradients import GradientNorms
from launcher.track.record import StepRecord


@final
class StepMeter:
    """Counts steps since the last record. `add` never waits for the device; `record` does."""

    def __init__(self, tokens_per_step: int) -> None:
        self._tokens_per_step = tokens_per_step
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
            memory_gb=torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else None,
        )
        self._reset()
        return record
