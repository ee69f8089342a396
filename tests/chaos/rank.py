"""A rank with a fault inside, in place of the interpreter that torchrun starts.

The product has no hook for it.
"""

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def main() -> int:
    """Change this process as CHAOS says, then be a rank."""
    from launcher.cli.rank import main as be_rank

    fault: dict[str, Any] = json.loads(os.environ["CHAOS"])
    here = int(os.environ["RANK"]) == fault["rank"]
    steps = _watch_phases(fault, here=here)
    if fault["kind"] == "nan" and here:
        _poison_loss(fault, steps)
    return be_rank()


def _watch_phases(fault: dict[str, Any], *, here: bool) -> list[int]:
    """Slow every step down, and fail or hesitate in one phase; returns the steps begun, counted live."""
    from launcher.clock import Clock, Interval, Phase

    plain, steps = Clock.phase, [0]

    @contextlib.contextmanager
    def phase(self: Clock, name: Phase, step: int | None = None) -> Iterator[Interval]:
        if name == "data":
            steps[0] += 1
            time.sleep(fault["step_s"])
        due = here and name == fault["phase"] and steps[0] >= fault["after"]
        with plain(self, name, step) as interval:
            if due and fault["kind"] == "raise" and _first(fault):
                raise ZeroDivisionError(f"chaos in {name}")
            if due and fault["kind"] == "slow" and _first(fault):
                time.sleep(1.0)
            yield interval

    Clock.phase = phase  # type: ignore[method-assign]
    return steps


def _poison_loss(fault: dict[str, Any], steps: list[int]) -> None:
    """One micro batch of one rank is not finite, before anything is reduced."""
    from launcher.parallel import torch_engine

    engine: Any = torch_engine
    if os.environ["CHAOS_ENGINE"].startswith("zero"):
        from launcher.parallel.deepspeed import deepspeed_engine as engine
    plain = engine.loss_sum

    def loss_sum(*args: Any) -> Any:
        poisoned = steps[0] >= fault["after"] and _first(fault)
        return plain(*args) * (float("nan") if poisoned else 1.0)

    engine.loss_sum = loss_sum


def _first(fault: dict[str, Any]) -> bool:
    """Once for each fault, however often the agent starts again."""
    try:
        Path(fault["fired"]).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
