"""Ranks on this machine for the sharded check: processes with a gloo group of their own, on CPU."""

import contextlib
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from launcher.check.coordinates import Setting, Value, measure_coordinates
from launcher.world import World, close_world, die_with_parent, join_local_world

TIMEOUT_S = 300.0


def cpu_world() -> World:
    """This process alone, on the CPU: the check is small, and the same on every machine."""
    return World(rank=0, local_rank=0, size=1, local_size=1, device=torch.device("cpu"))


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Small models gain nothing from a second thread, and lose tenfold where another process has its core."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def measure_sharded(setting: Setting) -> list[Value]:
    """measure_coordinates on setting.ranks processes: rank 0's values. Raises RuntimeError if one fails."""
    # forkserver: torch is imported once, and a process that has used it is never forked
    context = get_context("forkserver")
    context.set_forkserver_preload(["launcher.check.ranks"])
    with tempfile.TemporaryDirectory(prefix="check-") as folder:
        ours, theirs = context.Pipe(duplex=False)
        processes = [
            context.Process(target=_rank, args=(rank, folder, setting, theirs), daemon=True)
            for rank in range(setting.ranks)
        ]
        for process in processes:
            process.start()
        theirs.close()
        try:
            return _first_answer(ours, processes)
        finally:
            for process in processes:
                process.join(10)
                process.kill()


def _first_answer(pipe: Connection, processes: Sequence[BaseProcess]) -> list[Value]:
    """Rank 0's values, or the first failure of any rank."""
    running = list(processes)
    while not pipe.poll():
        ready = wait([pipe, *(process.sentinel for process in running)], timeout=TIMEOUT_S)
        if not ready:
            raise RuntimeError(f"no answer within {TIMEOUT_S:g} s")
        dead = [process for process in running if process.exitcode not in (None, 0)]
        if dead and not pipe.poll(5.0):  # the others may know more
            raise RuntimeError(f"a rank ended with exit code {dead[0].exitcode}, without a word")
        running = [process for process in running if process.exitcode is None]
    try:
        answer = pipe.recv()
    except EOFError:
        raise RuntimeError("every rank ended without a word") from None
    if isinstance(answer, str):
        raise RuntimeError(answer)
    assert isinstance(answer, list), "a rank answers with values or with a traceback"
    return answer


def _rank(rank: int, folder: str, setting: Setting, pipe: Connection) -> None:
    die_with_parent()
    torch.set_num_threads(1)
    size = setting.ranks
    try:
        world = join_local_world(rank, size, Path(folder) / "rendezvous", TIMEOUT_S)
        values = measure_coordinates(setting, world)
        close_world(world)
    except Exception:  # told to the parent, whatever it is
        pipe.send(f"rank {rank} of {size}:\n{traceback.format_exc()}")
        return
    if rank == 0:
        with contextlib.suppress(BrokenPipeError):
            pipe.send(values)
