"""Train the points of a sweep in a few processes. Only those import torch."""

import contextlib
import functools
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from launcher import run_folder
from launcher.clock import Clock
from launcher.errors import UserError
from launcher.guard.stop import StopRequests
from launcher.processes import Failure, forkserver, run_each
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


def run_tasks(tasks: Sequence[Task], *, jobs: int, threads: int) -> Iterator[tuple[Task, str]]:
    """Train every task in `jobs` processes of `threads` threads; yield each with its error, "" for none."""
    function = functools.partial(_try_point, threads=threads)
    for task, answer in run_each(function, tasks, jobs=jobs, context=forkserver("launcher.train")):
        yield task, answer.reason if isinstance(answer, Failure) else answer


def _try_point(task: Task, slot: int, *, threads: int) -> str:
    """Train a point. Returns the reason if it fails; the traceback is written to the point's folder."""
    try:
        train_point(task, one_process(slot, threads))
    except UserError as error:
        return " | ".join(str(problem) for problem in error.problems)
    except Exception as error:  # no failure of one point may end the others
        (task.run_dir / ERROR).parent.mkdir(parents=True, exist_ok=True)
        (task.run_dir / ERROR).write_text(traceback.format_exc())
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return ""


def one_process(slot: int, threads: int) -> "World":
    """A single process, on the GPU of its slot if there are GPUs."""
    import torch

    from launcher.world import World

    torch.set_num_threads(threads)
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", slot % torch.cuda.device_count())
        torch.cuda.set_device(device)
    return World(rank=0, local_rank=slot, size=1, local_size=1, device=device)


def train_point(task: Task, world: "World", stop: StopRequests | None = None) -> None:
    """Write a point's run folder, unless it exists, and train it from its newest checkpoint.

    `stop`: by whom it may be asked to save and stop; None for nobody.
    """
    from launcher.mup.bsh import dump_base_shapes
    from launcher.plan.plan import make_plan
    from launcher.plan.plan_record import plan_record
    from launcher.train import train

    folder, run_url = task.run_dir, str(task.run_dir)
    loaded = compile_recipe(task.recipe, str(folder / run_folder.RECIPE))
    recipe = loaded.recipe
    if not run_folder.is_run(run_url):
        with loaded.locating():
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
    # Two sweeps of the same folder at once, or a resume of a point, must not both write its journal.
    lock = run_folder.lock_run(run_url)
    (folder / LOG).parent.mkdir(exist_ok=True)
    try:
        with open(folder / LOG, "a") as log, contextlib.redirect_stdout(log), loaded.locating():
            mirror = run_folder.open_mirror(run_url, is_main=True)
            train(
                recipe,
                run_url,
                world,
                stop=stop or StopRequests(),
                clock=Clock(),
                mirror=mirror,
                mlflow=task.mlflow,
            )
    finally:
        if lock is not None:
            lock.close()
