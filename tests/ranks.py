"""Real gloo processes inside one test: forked from the test process, which has imported torch already."""

import faulthandler
import multiprocessing
import os
import pickle
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from typing import TypeVar

import torch
import torch.distributed as dist

from launcher.world import World

T = TypeVar("T")


def run_ranks(num_ranks: int, function: Callable[..., T], *args: object, timeout_s: float = 120.0) -> list[T]:
    """Call function(world, *args) on that many ranks at once; returns what each gave, in rank order.

    Every rank has one thread and, of more than one, a process group. An exception or a death in any rank, or
    the time limit, ends all of them and raises AssertionError with the tracebacks. Any callable will do; what
    it returns must be picklable.
    """
    context = multiprocessing.get_context("fork")
    sys.stdout.flush()
    sys.stderr.flush()
    with tempfile.TemporaryDirectory(prefix="ranks-") as folder:
        pipes = [context.Pipe(duplex=False) for _ in range(num_ranks)]
        senders = [sender for _, sender in pipes]
        processes = [
            context.Process(target=_child, args=(rank, folder, senders, timeout_s, function, args))
            for rank in range(num_ranks)
        ]
        try:
            for process in processes:
                process.start()
            for sender in senders:
                sender.close()
            return _collect([receiver for receiver, _ in pipes], timeout_s)
        finally:
            for process in processes:
                process.kill()
                process.join()


def _collect(receivers: list[Connection], timeout_s: float) -> list:
    """One result a rank; the first failure leaves the others two seconds to tell theirs."""
    deadline = time.monotonic() + timeout_s
    results: dict[int, object] = {}
    failures: dict[int, str] = {}
    while len(results) + len(failures) < len(receivers):
        pending = [r for rank, r in enumerate(receivers) if rank not in results and rank not in failures]
        ready = wait(pending, timeout=max(0.0, deadline - time.monotonic()))
        if not ready:
            if not failures:
                late = [rank for rank in range(len(receivers)) if rank not in results]
                raise AssertionError(
                    f"ranks {late} of {len(receivers)} gave nothing in {timeout_s:.0f} s (see stderr)"
                )
            break
        for receiver in [r for r in pending if r in ready]:
            rank = receivers.index(receiver)
            try:
                failed, value = pickle.loads(receiver.recv_bytes())
            except EOFError:
                failed, value = True, "died without a word (killed, or ended by os._exit)"
            (failures if failed else results)[rank] = value
        if failures:
            deadline = min(deadline, time.monotonic() + 2.0)
    if failures:
        raise AssertionError("\n".join(f"rank {rank}: {text}" for rank, text in sorted(failures.items())))
    return [results[rank] for rank in range(len(receivers))]


def _child(
    rank: int,
    folder: str,
    senders: list[Connection],
    timeout_s: float,
    function: Callable[..., object],
    args: tuple[object, ...],
) -> None:
    # Where a hanging rank hangs: printed just before the parent gives up.
    faulthandler.dump_traceback_later(max(1.0, timeout_s - 2.0), file=2)
    torch.set_num_threads(1)
    size, sender = len(senders), senders.pop(rank)
    for other in senders:  # else the end of that rank would go unseen
        other.close()
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(size),
        "OMP_NUM_THREADS": "1",
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
    }
    try:
        if size > 1:
            place = f"file://{folder}/store"
            limit = timedelta(seconds=timeout_s)
            dist.init_process_group("gloo", init_method=place, rank=rank, world_size=size, timeout=limit)
        world = World(rank=rank, local_rank=rank, size=size, local_size=size, device=torch.device("cpu"))
        answer = pickle.dumps((False, function(world, *args)))
    except BaseException:
        answer = pickle.dumps((True, traceback.format_exc()))
    sender.send_bytes(answer)
    sender.close()
    os._exit(0)
