"""What each rank runs: `python -m launcher.cli.rank --run-dir RUN`, started by torchrun."""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

from launcher import files
from launcher.cli.main import print_problems
from launcher.errors import UserError
from launcher.recipe.compile import compile_recipe
from launcher.run_folder import RECIPE, journal_folder, lock_run
from launcher.track.config import MLflowConfig
from launcher.track.feed import STATE_NAME
from launcher.track.mlflow import MlflowTarget
from launcher.track.store import resolve_tracking_uri
from launcher.train import train
from launcher.world import close_world, die_with_parent, open_world


def find_target(config: MLflowConfig, folder: Path) -> MlflowTarget | None:
    """The tracking store of this attempt: the recipe's, the environment's, the last attempt's or the default."""
    if not config.enabled:
        return None
    state = folder / STATE_NAME
    previous = json.loads(state.read_text())["tracking_uri"] if state.exists() else None
    environment = os.environ.get("MLFLOW_TRACKING_URI")
    uri = resolve_tracking_uri(config.tracking_uri, environment, Path.cwd(), previous=previous)
    return MlflowTarget(uri, config.experiment)


def main() -> int:
    """Train the run in a folder; the first rank holds its lock."""
    die_with_parent()
    parser = argparse.ArgumentParser(prog="python -m launcher.cli.rank")
    parser.add_argument("--run-dir", required=True)
    run_url = files.absolute(parser.parse_args().run_dir)
    world = open_world()
    try:
        recipe_url = files.join(run_url, RECIPE)
        recipe = compile_recipe(files.read_text(recipe_url), recipe_url).recipe
        lock = lock_run(run_url, wait_s=10.0) if world.is_main else None
        folder = journal_folder(run_url, Path(tempfile.gettempdir()) / "mulaunch" / recipe.name)
        mlflow = find_target(recipe.track.mlflow, folder) if world.is_main else None
        train(recipe, run_url, world, folder=folder, mlflow=mlflow)
        if lock is not None:
            lock.close()
    except UserError as error:
        print_problems(error)
        return 2
    finally:
        close_world(world)
    return 0


if __name__ == "__main__":
    sys.exit(main())
