"""What each rank runs: `python -m launcher.cli.rank --run-dir RUN`, started by torchrun."""

import argparse
import sys

from launcher import files
from launcher.cli.main import print_problems
from launcher.cli.tracking import find_target
from launcher.errors import UserError
from launcher.recipe.compile import load_frozen
from launcher.recipe.schema import Recipe
from launcher.run_folder import RECIPE, lock_run, open_mirror
from launcher.train import Result, train
from launcher.world import World, close_world, die_with_parent, open_world

LARGE = "recipes/s4-lm-1b.yaml"
"""Suggested as the next plan where a run was started beside it."""
LOCK_WAIT_S = 10.0
"""An attempt that was killed a moment ago may still hold the run."""


def main() -> int:
    """Train the run in a folder. Rank 0 holds its lock and writes its journal."""
    die_with_parent()
    parser = argparse.ArgumentParser(prog="python -m launcher.cli.rank")
    parser.add_argument("--run-dir", required=True)
    run_url = files.absolute(parser.parse_args().run_dir)
    try:
        loaded = load_frozen(files.join(run_url, RECIPE))
        world = open_world(loaded.recipe.parallel.timeout_s)
        try:
            with loaded.locating():
                run_rank(loaded.recipe, run_url, world)
        finally:
            close_world(world)
    except UserError as error:
        print_problems(error)
        return 2
    return 0


def run_rank(recipe: Recipe, run_url: str, world: World) -> None:
    """Train. Rank 0 holds the run's lock and prints the summary."""
    lock = lock_run(run_url, LOCK_WAIT_S) if world.is_main else None
    mirror = open_mirror(run_url, world.is_main)
    feeds = world.is_main and recipe.track.mlflow.enabled
    mlflow = find_target(recipe.track.mlflow, mirror.folder) if feeds else None
    result = train(recipe, run_url, world, mirror=mirror, mlflow=mlflow)
    if world.is_main:
        print(summary_text(run_url, result, recipe), flush=True)
    if lock is not None:
        lock.close()


def summary_text(run_url: str, result: Result, recipe: Recipe) -> str:
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
    return "\n".join(
        [
            *lines,
            f"  launch resume {short} train.steps={2 * recipe.train.steps}",
            *([f"  launch plan {LARGE} --nodes 8"] if files.is_file(LARGE) else []),
            "  launch ui",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
