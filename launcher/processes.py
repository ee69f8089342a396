"""Local processes that run one function: task after task, or all at once as a group. Torch-free."""

import contextlib
import os
import pickle
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkContext, ForkServerContext
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

Task = TypeVar("Task")
Answer = TypeVar("Answer")
Context = ForkContext | ForkServerContext

_GRACE_S = 2.0
"""After the first failure in a group, the others have this long to report theirs, which may be the cause."""
_EXIT_S = 10.0


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a task has no result: a traceback, or how its process ended."""

    reason: str


class GroupError(RuntimeError):
    """One or more processes of a group failed, died or timed out; the message has all reasons."""

    def __init__(self, reasons: Sequence[str]) -> None:
        super().__init__("\n".join(reasons))
        self.first = reasons[0]
        """The earliest reason; later ones are often its consequences."""


@dataclass(frozen=True, slots=True)
class _Worker:
    slot: int
    process: BaseProcess
    connection: Connection

    def give(self, task: object) -> None:
        # If the process is dead, receive() will find its end of the pipe closed, and report that.
        with contextlib.suppress(ConnectionError):
            self.connection.send_bytes(pickle.dumps(task))

    def receive(self) -> Any:
        """Wait for the result of the last task, or its Failure."""
        try:
            return pickle.loads(self.connection.recv_bytes())
        except (EOFError, ConnectionError):
            self.process.join()
            return Failure(f"the process ended with exit code {self.process.exitcode} and no message")


def forkserver(preload: str) -> ForkServerContext:
    """A context whose processes are forked from one that has only imported a module.

    torch is loaded once for all of them, and no process that has started threads is ever forked.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload([preload])
    return context


def run_each(
    function: Callable[[Task, int], Answer], tasks: Sequence[Task], *, jobs: int, context: Context
) -> Iterator[tuple[Task, Answer | Failure]]:
    """Yield each task with the result of function(task, slot) when it ends; `jobs` run at once, one per slot.

    A process runs many tasks. If it dies, only its current task fails, and it is replaced.
    """
    queue = list(reversed(tasks))
    workers = [_start(context, function, slot) for slot in range(min(jobs, len(tasks)))]
    given: dict[int, Task] = {}
    try:
        for worker in workers:
            given[worker.slot] = queue.pop()
            worker.give(given[worker.slot])
        while given:
            for worker in _wait([worker for worker in workers if worker.slot in given]):
                task, answer = given.pop(worker.slot), worker.receive()
                # The next task is sent before this result is yielded: the caller may take its time with it.
                if queue:
                    if not worker.process.is_alive():
                        worker = workers[worker.slot] = _start(context, function, worker.slot)
                    given[worker.slot] = queue.pop()
                    worker.give(given[worker.slot])
                yield task, answer
    finally:
        _stop(workers)


def run_group(
    function: Callable[[Task, int], Answer], tasks: Sequence[Task], *, timeout_s: float, context: Context
) -> list[Answer]:
    """The results of function(task, rank), each task in its own process, all at once: they may communicate.

    Raises GroupError, and ends all of them, if one raises, dies, or has no result in time.
    """
    workers = [_start(context, function, rank) for rank in range(len(tasks))]
    deadline = time.monotonic() + timeout_s
    answers: dict[int, Answer] = {}
    failures: dict[int, str] = {}
    try:
        for worker, task in zip(workers, tasks, strict=True):
            worker.give(task)
        while late := [worker for worker in workers if worker.slot not in answers | failures]:
            ready = _wait(late, max(0.0, deadline - time.monotonic()))
            for worker in ready:
                answer = worker.receive()
                if isinstance(answer, Failure):
                    # The others may now wait for this one forever, so the deadline moves close.
                    failures[worker.slot] = answer.reason
                    deadline = min(deadline, time.monotonic() + _GRACE_S)
                else:
                    answers[worker.slot] = answer
            if not ready:
                break
    finally:
        _stop(workers)
    if failures:
        raise GroupError([f"rank {rank}: {reason}" for rank, reason in failures.items()])
    if late:
        ranks = [worker.slot for worker in late]
        raise GroupError([f"ranks {ranks} of {len(tasks)} had no result within {timeout_s:g} s"])
    return [answers[rank] for rank in range(len(tasks))]


def _start(context: Context, function: Callable[[Any, int], object], slot: int) -> _Worker:
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, function, slot), daemon=True)
    process.start()
    theirs.close()  # before the next fork: else the pipe would outlive this process
    return _Worker(slot, process, ours)


def _wait(workers: Sequence[_Worker], timeout_s: float | None = None) -> list[_Worker]:
    """Wait for the first worker that has a result or died; returns all such workers."""
    ready = wait([worker.connection for worker in workers], timeout_s)
    return [worker for worker in workers if worker.connection in ready]


def _stop(workers: Sequence[_Worker]) -> None:
    for worker in workers:
        worker.connection.close()
        worker.process.terminate()
    for worker in workers:
        worker.process.join(_EXIT_S)
        worker.process.kill()
        worker.process.join()


def _serve(connection: Connection, function: Callable[[Any, int], object], slot: int) -> None:
    """Main loop of a process: run tasks until the other end is closed, or ctrl-C."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with contextlib.suppress(EOFError, ConnectionError, KeyboardInterrupt):
        while True:
            connection.send_bytes(_answer(function, connection.recv_bytes(), slot))


def _end_with_parent() -> None:
    """End this process when the one that started the tasks is gone: nothing else would end a long task.

    Linux's signal for the death of a parent does not help: the parent is the fork server, which lives as long
    as its children.
    """
    parent = parent_process()
    assert parent is not None, "every worker is started by a process"
    wait([parent.sentinel])
    os._exit(1)


def _answer(function: Callable[[Any, int], object], task: bytes, slot: int) -> bytes:
    # Pickled here, because torch changes how pipes send tensors: as a handle to shared memory, which is gone
    # when this process ends.
    try:
        return pickle.dumps(function(pickle.loads(task), slot))
    except KeyboardInterrupt:
        raise
    except BaseException:  # also sys.exit and pytest's own, which are not Exceptions: the parent reports it
        return pickle.dumps(Failure(traceback.format_exc()))
