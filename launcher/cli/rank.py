"""What each rank runs: `python -m launcher.cli.rank --run-dir RUN`, started by torchrun."""

import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

from launcher import files
from launcher.cli.lasting import LastingOutput
from launcher.cli.main import print_lines
from launcher.cli.places import ENDS, LOGS, NODE_FOLDER, REPLACED, SHOWN, rank_arguments, recipe_url
from launcher.cli.problems import problem_lines, wants_colour
from launcher.cli.tracking import find_target
from launcher.clock import Clock
from launcher.ending import REACTIONS, EndingError
from launcher.errors import UserError
from launcher.fence import LEASE_S
from launcher.guard.beacon import Beacon, open_beacon
from launcher.guard.cause import STOPS
from launcher.guard.judge import limits_of
from launcher.guard.rank_end import RankEnd, describe_end, write_end
from launcher.guard.ranks import announce, die_with_parent
from launcher.guard.stacks import install_stack_dumper
from launcher.guard.stop import StopRequests
from launcher.optim.schedule import Schedule, describe_jump
from launcher.recipe.compile import load_frozen
from launcher.recipe.schema import Recipe
from launcher.run_folder import CONSOLE, JOURNAL, LocalMirror, lock_run, open_mirror, read_secret
from launcher.track.settle import last_attempt

if TYPE_CHECKING:
    from launcher.track.open_tracker import Result
    from launcher.world import World

LARGE = "recipes/s4-lm-1b.yaml"
"""Suggested as the next plan where a run was started beside it."""
LOCK_WAIT_S = 10.0
"""An attempt that was killed a moment ago may still hold the run."""


def main() -> int:
    """Train the run in a folder. Rank 0 holds its lock and writes its journal."""
    die_with_parent()
    options = rank_arguments(sys.argv[1:])
    run_url = files.absolute(options.run_dir)
    rank, words, node = int(os.environ.get("RANK", "0")), os.environ.get(ENDS), os.environ.get(NODE_FOLDER)
    if logs := os.environ.get(LOGS):
        _print_to(Path(logs) / f"rank-{rank}.log")
    elif shown := os.environ.get(SHOWN):
        _print_to(Path(shown))
    sys.stdout, sys.stderr = LastingOutput(sys.stdout, None), LastingOutput(sys.stderr, None)
    stop = StopRequests(now_on_second_sigint=node is None)
    stop.listen()
    install_stack_dumper(os.environ)
    beacon = open_beacon(os.environ)
    if node is not None:
        announce(Path(node), rank)
    try:
        if (code := _final_code(run_url)) is not None:
            return code
        run_rank(run_url, options.submission, recipe_url(options), stop, beacon)
    except BaseException as error:
        end = describe_end(rank, error)
        if words is not None:
            places = [words] if node is None else [words, f"{node}/{Path(words).name}"]
            if not _leave_words(places, end, error):
                print_lines([f"launch: rank {rank}: {end.ending}: {end.message} ({end.place})"])
            # torchrun takes any other code for a failure, and ends the ranks that are still leaving.
            return 0 if end.ending in STOPS else REACTIONS[end.ending].code
        if not isinstance(error, UserError | EndingError):
            raise
        print_lines(problem_lines(end.message))
        return REACTIONS[end.ending].code
    finally:
        if beacon is not None:
            beacon.enter("end")
    return 0


def _print_to(path: Path) -> None:
    """Send all output of this process to a file, also that of C++: NCCL's, and the last words of a crash."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        os.close(handle)


def _leave_words(places: Sequence[str], end: RankEnd, error: BaseException) -> bool:
    """In the run folder, else where the agent of this node looks too; False if neither takes them."""
    for place in places:
        with contextlib.suppress(OSError):
            if write_end(place, end, error):
                return True
    return False


def _final_code(run_url: str) -> int | None:
    """For a rank that torchrun has started again: the code of the last end if that is final."""
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) == 0:
        return None
    last = last_attempt(open_mirror(run_url, is_main=True).folder / JOURNAL)
    reaction = REACTIONS[last.end["class"]] if last is not None and last.end is not None else None
    return None if reaction is None or reaction.retry else reaction.code


def run_rank(run_url: str, submission: str, recipe: str, stop: StopRequests, beacon: Beacon | None) -> None:
    """Join the other ranks and train."""
    from launcher.world import close_world, open_world  # torch, which takes seconds

    loaded = load_frozen(recipe)
    limit_min = loaded.recipe.guard.time_limit_min
    stop.limit_to(None if limit_min is None else 60.0 * limit_min)
    timeout_s = loaded.recipe.parallel.timeout_s
    if beacon is not None:
        # The watchdog names the rank that hangs; a collective that gave up first would name a healthy one.
        timeout_s = max(timeout_s, limits_of(loaded.recipe.guard).longest_s + 60.0)
    with loaded.locating():
        world = open_world(timeout_s, read_secret(run_url))
    try:
        with loaded.locating():
            job = os.environ.get("SLURM_JOB_ID")
            # First: whoever reads a remote journal and then waits for its owner would put an old one over it.
            lock = take_run(run_url, job) if world.is_main else None
            mirror = open_mirror(run_url, world.is_main, submission, job)
            train_rank(loaded.recipe, mirror, world, stop, beacon)
            if lock is not None:
                lock.close()
    finally:
        close_world(world)


def take_run(run_url: str, job: str | None) -> IO[str] | None:
    """The run's lock; an attempt that was killed a moment ago may still hold it, or a lease."""
    wait_s = LOCK_WAIT_S + (LEASE_S if files.local_path(run_url) is None else 0.0)
    return lock_run(run_url, wait_s, job, os.environ.get(REPLACED))


def train_rank(
    recipe: Recipe, mirror: LocalMirror, world: "World", stop: StopRequests, beacon: Beacon | None
) -> None:
    """Train. Rank 0 prints the summary."""
    from launcher.track.trace import make_tracer
    from launcher.train import train

    run_url = mirror.run_url
    if world.is_main:
        # What is a terminal to the loop gets colors.
        terminal, shown = wants_colour(sys.stdout), None if SHOWN in os.environ else sys.stdout
        sys.stdout = LastingOutput(shown, mirror.folder / CONSOLE, as_terminal=terminal and shown is not None)
    feeds = world.is_main and recipe.track.mlflow.enabled
    mlflow = find_target(recipe.track.mlflow, mirror.folder) if feeds else None
    clock = Clock(beacon=beacon, tracer=make_tracer(recipe.track.trace, run_url, world))
    result = train(recipe, run_url, world, stop=stop, clock=clock, mirror=mirror, mlflow=mlflow)
    if world.is_main:
        print(summary_text(run_url, result, recipe), flush=True)


def summary_text(run_url: str, result: "Result", recipe: Recipe) -> str:
    """Where the results are, and which commands to try next."""
    short = files.shortest(run_url)
    lines = ["", f"run         {short}", f"checkpoint  {files.shortest(result.checkpoint_url)}"]
    status = result.mlflow
    if status is not None:
        where = f"experiment {status.experiment!r}, run {status.run_id} in {status.tracking_uri}"
        lines.append(f"mlflow      {where}" + (f" ({status.problem})" if status.problem else ""))
    lines += ["", "next:"]
    if status is not None and status.problem:
        lines.append(f"  launch replay {short}")
    steps = recipe.train.steps
    longer = Schedule(recipe.schedule, 2 * steps)
    longer.restore({}, steps)
    jump = describe_jump(recipe.schedule, steps, longer, 2 * steps, step=steps, lr=recipe.optim.lr)
    return "\n".join(
        [
            *lines,
            f"  launch resume {short} train.steps={2 * steps}",
            *([f"    {jump}"] if jump else []),
            *([f"  launch plan {LARGE} --nodes 8"] if files.is_file(LARGE) else []),
            f"  launch report {short}",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
