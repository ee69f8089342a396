"""A rank with a fault inside, in place of the interpreter that torchrun starts.

The product has no hook for it.
"""

import contextlib
import errno
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
    if fault["kind"] == "full" and here:
        _fill_disk(fault, steps)
    if fault["kind"] == "cutoff":
        _take_locks_away()
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


FULL_STEPS = 25
"""As many as two or three saves."""


def _fill_disk(fault: dict[str, Any], steps: list[int]) -> None:
    """For a while nothing more can be written in the run folder; a real full disk needs one to fill."""
    from launcher import files
    from launcher.checkpoint import storage
    from launcher.track.journal import Journal

    def refuse() -> None:
        if fault["after"] <= steps[0] < fault["after"] + FULL_STEPS:
            _first(fault)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write, append, opened = files.write_bytes, Journal._append, storage._Digesting.write

    def write_bytes(url: str, content: bytes) -> None:
        refuse()
        write(url, content)

    def append_line(self: Journal, data: bytes) -> None:
        refuse()
        append(self, data)

    def write_shard(self: Any, data: bytes) -> int:
        refuse()
        return opened(self, data)

    files.write_bytes = write_bytes
    Journal._append = append_line  # type: ignore[method-assign]
    storage._Digesting.write = write_shard  # type: ignore[method-assign]


def _take_locks_away() -> None:
    """As on a file system without them."""
    import fcntl

    def flock(_stream: object, _operation: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    fcntl.flock = flock  # type: ignore[assignment]


def _first(fault: dict[str, Any]) -> bool:
    """Once for each fault, however often the agent starts again."""
    try:
        Path(fault["fired"]).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
