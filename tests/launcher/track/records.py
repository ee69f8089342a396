"""What a loop would log."""

from collections.abc import Mapping

from launcher.track.records import AttemptRecord, StepRecord, ValidationRecord


def step_record(step: int, loss: float = 2.5) -> StepRecord:
    return StepRecord(
        step=step,
        loss=loss,
        lr=1e-3,
        lr_group={"matrix": 1e-3, "ssm dt": 5e-4},
        grad_norm=1.7,
        grad_norm_clipped=1.0,
        clip_coefficient=1 / 1.7,
        clip_fraction=0.3,
        tokens=step * 4096,
        tokens_per_s=48211.0,
        step_time_s=0.085,
        data_wait_s=0.001,
    )


def attempt_record(*, lr: float = 1e-3, artifacts: tuple[str, ...] = ()) -> AttemptRecord:
    return AttemptRecord(
        run_name="tiny",
        tags={"parameters": "12", "host": "node-1"},
        run_dir="/runs/tiny",
        world_size=2,
        recipe={"seed": 1, "optim": {"type": "adamw", "lr": lr, "betas": [0.9, 0.95]}},
        artifacts=artifacts,
    )


def validation_record(step: int, baselines: Mapping[str, float] | None = None) -> ValidationRecord:
    return ValidationRecord(
        step=step, loss=2.31, accuracy=0.412, baselines=baselines or {}, sequences=128, seconds=3.0
    )
