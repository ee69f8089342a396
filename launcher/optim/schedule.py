"""Learning-rate schedules: the factor on every group's peak, as a pure function of the step."""

import math

from launcher.optim.config import ScheduleConfig


def schedule_factor(config: ScheduleConfig, step: int, total_steps: int) -> float:
    """Factor for the update that makes step `step` (0-based) of `total_steps`.

    Linear warmup reaches 1 at the end of `warmup_steps`; the last step uses `final_ratio`.
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    span = max(1, total_steps - 1 - config.warmup_steps)
    progress = min(1.0, (step - config.warmup_steps) / span)
    match config.type:
        case "constant":
            shape = 1.0
        case "linear":
            shape = 1.0 - progress
        case "cosine":
            shape = 0.5 * (1.0 + math.cos(math.pi * progress))
    return shape if config.type == "constant" else config.final_ratio + (1 - config.final_ratio) * shape
