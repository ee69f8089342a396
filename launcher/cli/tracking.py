"""`launch replay RUN` and `launch ui`, and which tracking store the command line writes to."""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from launcher import files
from launcher.cli.arguments import A_RUN
from launcher.cli.parser import Parser
from launcher.ending import Ending, StorageError
from launcher.environment import OF_EVERY_PROCESS
from launcher.errors import Problem, UserError
from launcher.fence import is_anothers
from launcher.named_runs import find_run
from launcher.recipe.compile import load_frozen
from launcher.run_folder import JOURNAL, RECIPE, STATE, LocalMirror, lock_run, open_mirror, require_run
from launcher.track.config import MLflowConfig
from launcher.track.journal import read_events
from launcher.track.mlflow import MLFLOW_ENVIRONMENT, MlflowTarget
from launcher.track.mlflow_sync import replay, saved_tracking_uri
from launcher.track.mlflow_ui import make_ui_command
from launcher.track.settle import last_attempt, settle, settle_silent
from launcher.track.tracking_uri import mask_secrets, resolve_tracking_uri, sqlite_path

Answer = TypeVar("Answer")
SETTLE_S = 10.0
"""Longest wait for a lock that a dead process held, and for MLflow."""


def find_target(config: MLflowConfig, folder: Path | None = None) -> MlflowTarget:
    """The store to write to: of the recipe, the environment or the run's last attempt, else the default."""
    uri = resolve_tracking_uri(
        config.tracking_uri,
        os.environ.get("MLFLOW_TRACKING_URI"),
        Path.cwd(),
        previous=saved_tracking_uri(folder) if folder else None,
    )
    return MlflowTarget(uri, config.experiment)


def check_store(config: MLflowConfig) -> None:
    """Raise UserError where what names the store cannot be one; nobody is asked."""
    if config.enabled:
        find_target(config)


def store_hints(config: MLflowConfig) -> Iterator[Problem]:
    """What of the environment does not count."""
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME")
    if config.enabled and name is not None and name != config.experiment:
        message = f"is {name!r}, and does not count: the recipe's experiment is {config.experiment!r}"
        yield Problem("MLFLOW_EXPERIMENT_NAME", message, "give it as track.mlflow.experiment=...")


def mlflow_environment() -> dict[str, str]:
    """Our MLflow settings, except those that the user has set."""
    return {name: value for name, value in MLFLOW_ENVIRONMENT.items() if name not in os.environ}


def run_environment() -> dict[str, str]:
    """Our settings for all processes of a run, except those that the user has set."""
    ours = MLFLOW_ENVIRONMENT | OF_EVERY_PROCESS
    return {name: value for name, value in ours.items() if name not in os.environ}


def replay_run(arguments: Sequence[str]) -> int:
    """Send MLflow what it has not received of a finished run. Doing it again sends nothing."""
    parser = Parser(
        prog="launch replay",
        description="Send MLflow what it has not received of a run that is over: its tracking server was "
        "down, or tracking was off. A run that is being trained sends everything by itself, and so does a "
        "resume. The store is the recipe's, else MLFLOW_TRACKING_URI, else that of the last attempt, else "
        "mlflow.db here.",
    )
    parser.add_argument("run", help=A_RUN)
    parser.add_argument("--tracking-uri", metavar="URI", help="send there, whatever the run folder says")
    options = parser.parse_args(arguments)
    run_url = find_run(options.run)
    short = files.shortest(run_url)
    require_run(run_url)
    files.check_writable(run_url)
    loaded = load_frozen(files.join(run_url, RECIPE))
    # A run in training sends its own records; with the lock, replay cannot send them a second time.
    lock = lock_run(run_url)
    mirror = open_mirror(run_url, is_main=True)
    _require_lines(mirror.folder / JOURNAL, short)
    os.environ |= mlflow_environment()
    with loaded.locating():
        target = _choose_target(options.tracking_uri, loaded.recipe.track.mlflow, mirror.folder, short)
    settle_silent(mirror.folder / JOURNAL)
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


def _choose_target(asked: str | None, config: MLflowConfig, folder: Path, short: str) -> MlflowTarget:
    """Where replay sends. Raises UserError where a folder's server would be given this user's password."""
    if asked is not None:
        uri = resolve_tracking_uri(asked, None, Path.cwd(), place="--tracking-uri")
        return MlflowTarget(uri, config.experiment)
    target = find_target(config, folder)
    if any(os.environ.get(name) for name in CREDENTIALS) and not _needs_no_password(target):
        shown = mask_secrets(target.tracking_uri)
        message = f"names {shown}, which is not MLFLOW_TRACKING_URI: your password would be sent there"
        remedy = f"if it is yours: launch replay {short} --tracking-uri {shown}"
        raise UserError(Problem(short, message, remedy))
    return target


def settle_run(
    run_url: str, ending: Ending, reason: str, *, since: float, final: bool, job: str | None = None
) -> None:
    """Make the last lines of journal and MLflow say how the attempt that began after `since` ended.

    Nothing where another process trains the run by now. `final`: no attempt follows here, so MLflow is told,
    within a bounded time. `job`: the scheduler's, whose script this is.
    """
    # A full disk may be the very cause: then whoever looks next writes it.
    with contextlib.suppress(UserError, OSError, StorageError), _held(run_url, SETTLE_S) as mirror:
        if is_anothers(run_url, job):  # it was taken over, on a file system without locks
            return
        last = last_attempt(mirror.folder / JOURNAL)
        begun_here = last is not None and last.begun >= since
        if begun_here and settle(mirror.folder / JOURNAL, ending, reason) and final:
            _close_mlflow(run_url, mirror.folder)


def settle_lost(run_url: str) -> None:
    """End the newest attempt in journal and MLflow if its processes are gone and could not."""
    with _held(run_url, 0.0) as mirror:
        if settle_silent(mirror.folder / JOURNAL) and _is_own(run_url, mirror.folder):
            _close_mlflow(run_url, mirror.folder)


@contextlib.contextmanager
def _held(run_url: str, wait_s: float) -> Iterator[LocalMirror]:
    lock = lock_run(run_url, wait_s)
    try:
        mirror = open_mirror(run_url, is_main=True)
        yield mirror
        mirror.publish()
    finally:
        if lock is not None:
            lock.close()


def _close_mlflow(run_url: str, folder: Path) -> None:
    config = load_frozen(files.join(run_url, RECIPE)).recipe.track.mlflow
    if not config.enabled:
        return
    os.environ |= mlflow_environment()
    target = find_target(config, folder)
    within_limit(lambda: replay(folder, target, notify=_say_nothing), None)


def within_limit(work: Callable[[], Answer], late: Answer) -> Answer:
    """What a tracking server answers, or `late` if it has not within SETTLE_S: nobody waits longer."""
    found = [late]
    asking = threading.Thread(target=lambda: found.append(work()), daemon=True)
    asking.start()
    asking.join(SETTLE_S)
    return found[-1]


CREDENTIALS = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")


def _is_own(run_url: str, folder: Path) -> bool:
    """Whether a run's tracking store may be given this user's password: it is their own, or needs none."""
    if not any(os.environ.get(name) for name in CREDENTIALS):
        return True
    config = load_frozen(files.join(run_url, RECIPE)).recipe.track.mlflow
    return _needs_no_password(find_target(config, folder))


def _needs_no_password(target: MlflowTarget) -> bool:
    own = os.environ.get("MLFLOW_TRACKING_URI", "").rstrip("/")
    return sqlite_path(target.tracking_uri) is not None or target.tracking_uri == own


def _say_nothing(_text: str) -> None:
    pass


def _require_lines(journal: Path, short: str) -> None:
    if not journal.exists() or next(read_events(journal, "start"), None) is None:
        raise UserError(Problem(short, "has no journal yet", f"train it: launch resume {short}"))


def open_ui(arguments: Sequence[str]) -> int:
    """Replace this process by MLflow's server, until ctrl-C."""
    parser = Parser(prog="launch ui", description="Open MLflow's pages on a store.")
    parser.add_argument(
        "--store", metavar="URI", help="default: MLFLOW_TRACKING_URI, else mlflow.db in this folder"
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=5000)
    options = parser.parse_args(arguments)
    environment = os.environ.get("MLFLOW_TRACKING_URI")
    uri = resolve_tracking_uri(options.store, environment, Path.cwd(), place="--store")
    command = make_ui_command(uri, host=options.host, port=options.port)
    print(f"MLflow: {command.url} (ctrl-C ends it)", flush=True)
    os.execve(command.argv[0], list(command.argv), {**os.environ, **command.environment})
