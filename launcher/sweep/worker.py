"""Worker processes of a sweep: each trains points one after another, so torch is imported once a worker."""

import contextlib
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING

from launcher import run_folder
from launcher.errors import UserError
from launcher.recipe.compile import compile_recipe
from launcher.track.mlflow import MlflowTarget

if TYPE_CHECKING:
    from launcher.world import World

LOG, ERROR = "logs/sweep.log", "logs/error.txt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One point to train: its folder, its resolved recipe as text, and where its metrics go."""

    run_dir: Path
    recipe: str
    mlflow: MlflowTarget | None


@dataclass(slots=True)
class _Worker:
    process: BaseProcess
    connection: Connection
    slot: int
    task: Task | None = None


def run_tasks(tasks: Sequence[Task], *, jobs: int, threads: int) -> Iterator[tuple[Task, str]]:
    """Train every task in `jobs` processes of `threads` threads; yield each with its error, "" for none.

    A worker that dies takes only its own point with it.
    """
    queue = list(reversed(tasks))
    workers = [_start(slot, threads) for slot in range(min(jobs, len(tasks)))]
    try:
        for worker in workers:
            _give(worker, queue)
        while busy := [worker for worker in workers if worker.task is not None]:
            for worker in _answered(busy):
                task, error = worker.task, _receive(worker)
                assert task is not None, "only busy workers are waited for"
                if error is None:
                    worker.process.join()
                    error = f"the process ended with exit code {worker.process.exitcode}"
                    if queue:
                        fresh = _start(worker.slot, threads)
                        worker.process, worker.connection = fresh.process, fresh.connection
                _give(worker, queue)
                yield task, error
    finally:
        for worker in workers:
            worker.connection.close()
            worker.process.terminate()
            worker.process.join(10)
            worker.process.kill()


def _start(slot: int, threads: int) -> _Worker:
    # forkserver: torch is imported once for all workers, by a process that has no threads to lose in a fork
    context = get_context("forkserver")
    context.set_forkserver_preload(["launcher.train"])
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, slot, threads), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process, ours, slot)


def _answered(busy: Sequence[_Worker]) -> list[_Worker]:
    """Those of the busy workers that have something to say or are dead; waits for the first."""
    ready = wait([worker.connection for worker in busy])
    return [worker for worker in busy if worker.connection in ready]


def _give(worker: _Worker, queue: list[Task]) -> None:
    worker.task = queue.pop() if queue else None
    if worker.task is not None:
        worker.connection.send(worker.task)


def _receive(worker: _Worker) -> str | None:
    """What the worker answers; None where it died."""
    try:
        answer = worker.connection.recv()
    except (EOFError, ConnectionResetError):
        return None
    return str(answer)


def _work(connection: Connection, slot: int, threads: int) -> None:
    """A worker's life: train what comes until the pipe is closed."""
    import torch

    from launcher.world import World, die_with_parent

    die_with_parent()
    torch.set_num_threads(threads)
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", slot % torch.cuda.device_count())
        torch.cuda.set_device(device)
    world = World(rank=0, local_rank=slot, size=1, local_size=1, device=device)
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while True:
            connection.send(_try_point(connection.recv(), world))


def _try_point(task: Task, world: "World") -> str:
    """Train a point; where that fails, the reason in one line, and the traceback in the point's folder."""
    try:
        train_point(task, world)
    except UserError as error:
        return " | ".join(str(problem) for problem in error.problems)
    except Exception as error:  # one point's failure, of whatever kind, must not end the others
        (task.run_dir / ERROR).parent.mkdir(parents=True, exist_ok=True)
        (task.run_dir / ERROR).write_text(traceback.format_exc())
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return ""


def train_point(task: Task, world: "World") -> None:
    """Freeze a point in its run folder, unless it is there, and train it from its newest checkpoint."""
    from launcher.mup.bsh import dump_base_shapes
    from launcher.plan.plan import make_plan
    from launcher.plan.plan_record import plan_record
    from launcher.train import train

    folder, run_url = task.run_dir, str(task.run_dir)
    recipe = compile_recipe(task.recipe, str(folder / run_folder.RECIPE)).recipe
    if not run_folder.is_run(run_url):
        plan = make_plan(recipe, world.size)
        run_folder.freeze(
            run_url,
            recipe=task.recipe,
            source=None,
            plan=plan_record(plan),
            shapes=dump_base_shapes(plan.parameters.base_shapes),
            script=f"#!/bin/sh\nexec launch resume '{run_url}'\n",
            environment={},
            diff="",
        )
    lock = run_folder.lock_run(run_url)
    try:
        with open(folder / LOG, "a") as log, contextlib.redirect_stdout(log):
            mirror = run_folder.open_mirror(run_url, is_main=True)
            train(recipe, run_url, world, mirror=mirror, mlflow=task.mlflow)
    finally:
        if lock is not None:
            lock.close()
