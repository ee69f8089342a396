"""Learning-rate schedules: one multiplier on every group's peak, a function of the step and, for plateau, of
the validation losses so far."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, final

from launcher.optim.config import (
    ConstantConfig,
    CosineConfig,
    LinearConfig,
    PlateauConfig,
    ScheduleConfig,
    SineRestartsConfig,
    WarmupSection,
    WSDConfig,
)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleKind:
    """One schedule: the multiplier after warmup."""

    section: type[WarmupSection]
    multiplier: Callable[[Any, int, int], float]
    """(its section, steps since warmup, steps after warmup in all) -> factor on the peak.

    The first of them is 0 at the first step after warmup; in a run that is over it may reach the second."""


def _share(past: int, steps: int) -> float:
    # 0 at the first step after warmup and 1 at the last. A single such step would divide by zero.
    return min(1.0, past / max(1, steps - 1))


def _cosine(config: CosineConfig, past: int, steps: int) -> float:
    return _between(config.min_lr_ratio, 0.5 * (1.0 + math.cos(math.pi * _share(past, steps))))


def _linear(config: LinearConfig, past: int, steps: int) -> float:
    return _between(config.min_lr_ratio, 1.0 - _share(past, steps))


def _wsd(config: WSDConfig, past: int, steps: int) -> float:
    # decay_steps 10 of 100: left / decay_steps is 1 at step 89, 0.9 at step 90 and 0 at step 99.
    left = max(0, steps - 1 - past)
    return _between(config.min_lr_ratio, min(1.0, left / config.decay_steps))


def _sine_restarts(config: SineRestartsConfig, past: int, _steps: int) -> float:
    # Each cycle, the first one included, starts at 0, even right after a warmup that ended at 1.
    return math.sin(math.pi * (past % config.period) / config.period)


def _peak(_config: WarmupSection, _past: int, _steps: int) -> float:
    return 1.0


SCHEDULES: Mapping[str, ScheduleKind] = {
    "cosine": ScheduleKind(section=CosineConfig, multiplier=_cosine),
    "linear": ScheduleKind(section=LinearConfig, multiplier=_linear),
    "constant": ScheduleKind(section=ConstantConfig, multiplier=_peak),
    "wsd": ScheduleKind(section=WSDConfig, multiplier=_wsd),
    "sine_restarts": ScheduleKind(section=SineRestartsConfig, multiplier=_sine_restarts),
    "plateau": ScheduleKind(section=PlateauConfig, multiplier=_peak),
}


def schedule_kind(config: ScheduleConfig) -> ScheduleKind:
    """The row of a schedule, from the table or from an extension."""
    return config.row if isinstance(config.row, ScheduleKind) else SCHEDULES[config.type]


def lr_multiplier(config: ScheduleConfig, step: int, total_steps: int) -> float:
    """Multiplier for the update of step `step` (0-based) of `total_steps`, before any plateau reduction.

    Linear warmup reaches 1 at the end of `warmup_steps`; the last step uses `min_lr_ratio`.
    """
    # Warmup is 1/warmup_steps at step 0, not 0: no step is wasted. Warmup 4 is 0.25, 0.5, 0.75, 1.
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    past, steps = step - config.warmup_steps, total_steps - config.warmup_steps
    return schedule_kind(config).multiplier(config, past, steps)


def _between(lowest: float, shape: float) -> float:
    return lowest + (1 - lowest) * shape


def describe_jump(
    before: ScheduleConfig, old_steps: int, after: "Schedule", new_steps: int, *, step: int, lr: float
) -> str | None:
    """What happens to the rate where a run of `old_steps` continues after `step` as one of `new_steps`."""
    old = lr * lr_multiplier(before, min(step, old_steps) - 1, old_steps) * after.reduction
    expected = lr * lr_multiplier(before, min(step, old_steps - 1), old_steps) * after.reduction
    new = lr * after.lr_multiplier(step)
    if old_steps == new_steps or math.isclose(new, expected, rel_tol=0.01):
        return None
    hold = "; schedule.extend=hold keeps the last one" if after.extend == "rescale" else ""
    return f"the rate is {old:.2e} at step {step} and {new:.2e} at step {step + 1}, of {new_steps}{hold}"


@final
class Schedule:
    """The multiplier of each step. What it remembers is saved in a checkpoint's manifest."""

    def __init__(self, config: ScheduleConfig, total_steps: int) -> None:
        self._config = config
        self._total_steps = total_steps
        self._shape_steps = total_steps
        self._best: float | None = None
        self._num_bad = 0
        self._reduction = 1.0
        self._validation_loss: float | None = None

    def lr_multiplier(self, step: int) -> float:
        """Multiplier for the update of step `step` (0-based)."""
        # Held: the shape is that of the shorter run, and what comes after it has the rate of its last step.
        shape_step = min(step, self._shape_steps - 1)
        return lr_multiplier(self._config, shape_step, self._shape_steps) * self._reduction

    @property
    def extend(self) -> str:
        """What a longer run does to the rate."""
        return self._config.extend

    @property
    def reduction(self) -> float:
        """What plateaus have done to the rate so far."""
        return self._reduction

    def observe(self, validation_loss: float) -> bool:
        """Record a validation loss, the same on all ranks. Returns whether the multiplier was reduced."""
        config, self._validation_loss = self._config, validation_loss
        if config.type != "plateau":
            return False
        # A loss that is not finite is a bad one. As the best it would stay for ever: nothing is below NaN.
        finite = math.isfinite(validation_loss)
        if finite and (self._best is None or validation_loss < self._best * (1 - config.threshold)):
            self._best, self._num_bad = validation_loss, 0
            return False
        self._num_bad += 1
        if self._num_bad <= config.patience:
            return False
        before, self._num_bad = self._reduction, 0
        self._reduction = max(before * config.factor, config.min_lr_ratio)
        return self._reduction < before

    def state(self) -> dict[str, float | int | None]:
        """What lr_multiplier() depends on besides the step, in numbers that JSON stores exactly.

        And the newest validation loss, by which the best checkpoint is found.
        """
        held: dict[str, float | int | None] = {}
        if self._validation_loss is not None and math.isfinite(self._validation_loss):
            held["validation_loss"] = self._validation_loss
        if self._shape_steps < self._total_steps:
            held["shape_steps"] = self._shape_steps
        if self._config.type != "plateau":
            return held
        return held | {"best": self._best, "num_bad": self._num_bad, "reduction": self._reduction}

    def restore(self, state: Mapping[str, float | int | None], saved_steps: int) -> None:
        """Continue from a state() of a run of `saved_steps`; a plateau's means nothing to other schedules."""
        self._validation_loss = state.get("validation_loss")
        if self._config.extend == "hold":
            shape_steps = state.get("shape_steps") or saved_steps
            self._shape_steps = min(int(shape_steps), self._total_steps)
        if self._config.type != "plateau" or "best" not in state:
            return
        best, num_bad, reduction = state["best"], state["num_bad"], state["reduction"]
        assert num_bad is not None, state
        assert reduction is not None, state
        # Checkpoints of earlier versions can hold a best loss that is not finite.
        self._best = best if best is not None and math.isfinite(best) else None
        self._num_bad, self._reduction = int(num_bad), float(reduction)
