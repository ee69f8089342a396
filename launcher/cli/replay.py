"""`launch replay RUN`."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from launcher import files
from launcher.cli.tracking import find_target
from launcher.errors import Problem, UserError
from launcher.recipe.compile import load_frozen
from launcher.run_folder import JOURNAL, RECIPE, STATE, lock_run, open_mirror, require_run
from launcher.track.journal import whole_bytes
from launcher.track.mlflow import MLFLOW_ENVIRONMENT
from launcher.track.mlflow_sync import replay


def replay_run(arguments: Sequence[str]) -> int:
    """Send MLflow what it lacks of a run that nobody trains; a second time sends nothing."""
    parser = argparse.ArgumentParser(
        prog="launch replay",
        description="Send MLflow what it has not had of a run that is over: its tracking server was away, or "
        "tracking was off. A run that is being trained sends all by itself, and so does a resume. The store "
        "is the recipe's, else MLFLOW_TRACKING_URI, else the one fed before, else mlflow.db here.",
    )
    parser.add_argument("run", help="folder of the run")
    options = parser.parse_args(arguments)
    run_url = files.absolute(options.run)
    short = files.shortest(run_url)
    require_run(run_url)
    files.check_writable(run_url)
    loaded = load_frozen(files.join(run_url, RECIPE))
    lock = lock_run(run_url)
    mirror = open_mirror(run_url, is_main=True)
    _require_lines(mirror.folder / JOURNAL, short)
    for name, value in MLFLOW_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with loaded.locating():
        target = find_target(loaded.recipe.track.mlflow, mirror.folder)
    status = replay(mirror.folder, target, notify=print)
    mirror.publish([STATE])
    if lock is not None:
        lock.close()
    if status.problem is not None:
        remedy = f"when it answers: launch replay {short}"
        raise UserError(Problem(status.tracking_uri, status.problem, remedy))
    print(
        f"all of {short} is in experiment {status.experiment!r}, run {status.run_id} in {status.tracking_uri}"
    )
    return 0


def _require_lines(journal: Path, short: str) -> None:
    if not journal.exists() or whole_bytes(journal) == 0:
        raise UserError(Problem(short, "has no journal yet", f"train it: launch resume {short}"))
