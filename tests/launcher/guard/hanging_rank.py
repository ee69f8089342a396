"""A rank without torch for the tests of the watchdog: its collective is a file that each rank counts in.

python hanging_rank.py RANK SIZE FOLDER [HANG_STEP HANG_PHASE]
"""

import os
import sys
import time
from pathlib import Path

from launcher.clock import Clock
from launcher.guard.beacon import open_beacon
from launcher.guard.stacks import install_stack_dumper

COLLECTIVE = """
def all_reduce(folder, rank, size, step):
    (folder / f"step-{rank}").write_text(str(step))
    paths = [folder / f"step-{other}" for other in range(size)]
    while any(not path.exists() or int(path.read_text() or 0) < step for path in paths):
        time.sleep(0.002)
"""


def hang() -> None:
    """Compute for ever."""
    while True:
        time.sleep(0.01)


def main(rank: int, size: int, folder: Path, hang_at: tuple[int, str]) -> None:
    """A loop like that of training."""
    install_stack_dumper(os.environ)
    clock = Clock(beacon=open_beacon(os.environ))
    names = {"time": time}
    exec(compile(COLLECTIVE, "/site-packages/torch/distributed/distributed_c10d.py", "exec"), names)
    for step in range(1, 1_000_000):
        with clock.phase("data", step):
            if hang_at == (step, "data"):
                hang()
        with clock.phase("step"):
            if hang_at == (step, "step"):
                hang()
            names["all_reduce"](folder, rank, size, step)  # type: ignore[operator]


if __name__ == "__main__":
    where = (int(sys.argv[4]), sys.argv[5]) if len(sys.argv) > 4 else (0, "")
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), where)
