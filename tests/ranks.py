"""Real gloo processes inside one test: forked from the test process, which has imported torch already."""

import faulthandler
import multiprocessing
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

# Imported by the first optimizer step and the first random order: once here, instead of in every rank.
import numpy.random  # noqa: F401
import torch
import torch._dynamo

from launcher.processes import GroupError, run_group
from launcher.world import World, join_local_world, world_on

T = TypeVar("T")


def run_ranks(num_ranks: int, function: Callable[..., T], *args: object, timeout_s: float = 120.0) -> list[T]:
    """Call function(world, *args) on that many ranks at once; returns what each gave, in rank order.

    Every rank has one thread and, of more than one, a process group. An exception or a death in any rank, or
    the time limit, ends all of them and raises AssertionError with the tracebacks. Any callable will do; what
    it returns must be picklable.
    """
    with tempfile.TemporaryDirectory(prefix="ranks-") as folder:

        def call(_: None, rank: int) -> T:
            return function(_join(rank, num_ranks, Path(folder) / "store", timeout_s), *args)

        context = multiprocessing.get_context("fork")
        try:
            return run_group(call, [None] * num_ranks, timeout_s=timeout_s, context=context)
        except GroupError as failure:
            raise AssertionError(str(failure)) from None


def _join(rank: int, size: int, rendezvous: Path, timeout_s: float) -> World:
    # Where a hanging rank hangs: printed just before the parent gives up.
    faulthandler.dump_traceback_later(max(1.0, timeout_s - 2.0), file=2)
    torch.set_num_threads(1)
    os.environ |= {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    if size > 1:
        return join_local_world(rank, size, rendezvous, timeout_s)
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    return world_on("cpu")
