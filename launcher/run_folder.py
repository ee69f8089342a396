"""The run folder: everything about one run, across restarts. Torch-free.

recipe.yaml (resolved), recipe.source.yaml (as written), plan.json, base_shapes.bsh, job.sh, environment.json,
code.diff, tokenizer.json, journal.jsonl, mlflow.json, attempts/, checkpoints/, logs/, quarantine/, lock

A resume is submitted in a folder of its own, attempts/ID, whose content becomes the run's once its ranks have
accepted it.
"""

import atexit
import contextlib
import errno
import fcntl
import os
import secrets
import socket
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from launcher import files
from launcher.ending import StorageError
from launcher.errors import Problem, UserError
from launcher.fence import ALIVE, OWNER, living_owner
from launcher.json_text import dump_json
from launcher.spool import Spool
from launcher.track.journal import read_events

RECIPE, SOURCE, PLAN, SHAPES, SCRIPT = (
    "recipe.yaml",
    "recipe.source.yaml",
    "plan.json",
    "base_shapes.bsh",
    "job.sh",
)
ENVIRONMENT, DIFF, LOCK, SECRET = "environment.json", "code.diff", "lock", "secret"
JOURNAL, STATE = "journal.jsonl", "mlflow.json"
CONSOLE = "logs/console.log"
"""What was printed, whatever became of the terminal."""
MIRRORED = (JOURNAL, STATE, CONSOLE)
ARTIFACTS = (RECIPE, PLAN, SHAPES, SCRIPT, ENVIRONMENT, DIFF)
SUBMITTED = (SOURCE, ENVIRONMENT, DIFF, SHAPES, PLAN, SCRIPT, RECIPE)
"""What a submission defines. recipe.yaml and plan.json make a folder a run, so they come last."""


def is_run(run_url: str) -> bool:
    """Whether a folder contains a run."""
    return files.exists(files.join(run_url, RECIPE)) and files.exists(files.join(run_url, PLAN))


def require_new(run_url: str) -> None:
    """Raise UserError if a new run would mix with the content of a folder, or could not be written."""
    if is_run(run_url):
        raise UserError(
            Problem(
                f"--run-dir {run_url}",
                "already contains a run",
                f"continue it with `launch resume {run_url}`, or choose another --run-dir",
            )
        )
    local = files.local_path(run_url)
    if local is not None and local.exists() and not local.is_dir():
        raise UserError(Problem(f"--run-dir {run_url}", "is a file", "choose another --run-dir"))
    names = files.list_names(run_url)
    if LOCK in names:
        message = "is being started by another launch, or by one that was cut off"
        remedy = f"choose another --run-dir, or remove {files.join(run_url, LOCK)} if none is starting it"
        raise UserError(Problem(f"--run-dir {run_url}", message, remedy))
    if names:
        raise UserError(
            Problem(f"--run-dir {run_url}", "is not empty and is not a run", "choose another --run-dir")
        )


def claim(run_url: str) -> bool:
    """Make a folder this process's own for a new run; False if another process was faster.

    Raises UserError where it cannot be written.
    """
    local = files.local_path(run_url)
    if local is None:
        files.check_writable(run_url)
        return files.create_remote(files.join(run_url, LOCK), _this_process())
    # The lock's file, because a folder may be there already, empty.
    try:
        local.mkdir(parents=True, exist_ok=True)
        os.close(os.open(local / LOCK, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        return False
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            Problem(run_url, f"cannot be written: {reason}", "choose another --run-dir")
        ) from None
    return True


def unclaim(run_url: str) -> None:
    """Give back a folder in which nothing was written yet."""
    local = files.local_path(run_url)
    with contextlib.suppress(OSError):
        if local is None:
            files.remove(files.join(run_url, LOCK))
            return
        (local / LOCK).unlink()
        local.rmdir()


def _this_process(job: str | None = None) -> str:
    return f"process {os.getpid()} on {socket.gethostname()}" + (f", job {job}" if job else "")


_FILES = (*SUBMITTED, *MIRRORED, LOCK, SECRET, OWNER, ALIVE)
_FOLDERS = ("checkpoints", "quarantine", "attempts", "logs", "report", "traces")


def require_run(run_url: str) -> None:
    """Raise UserError if a folder does not contain a run, or something else in place of a run's files."""
    if is_run(run_url):
        _require_kinds(run_url)
        return
    what = "is not a run: it has no recipe.yaml and plan.json" if files.exists(run_url) else "does not exist"
    raise UserError(Problem(run_url, what, f"runs nearby: {_nearby_runs(run_url) or 'none'}"))


def _require_kinds(run_url: str) -> None:
    """Raise UserError for each folder or pipe in place of a file, and each file in place of a folder."""
    local = files.local_path(run_url)
    if local is None:
        return
    places = {local / name: Path.is_file for name in _FILES}
    places |= {local / name: Path.is_dir for name in _FOLDERS}
    wrong = [
        Problem(
            files.shortest(str(place)),
            f"is not a {'folder' if is_right is Path.is_dir else 'file'}, and should be",
            "put back what was there, or move it away",
        )
        for place, is_right in places.items()
        if place.exists() and not is_right(place)
    ]
    if wrong:
        raise UserError(*wrong)


def _nearby_runs(run_url: str) -> str:
    parent = run_url.rstrip("/").rsplit("/", 1)[0]
    places = [files.join(parent, name) for name in files.list_names(parent)]
    return ", ".join([place for place in places if is_run(place)][-5:])


def new_submission() -> str:
    """Where a resume's recipe, plan and script will be, relative to the run folder; sorted by time."""
    return f"attempts/{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:4]}"


def freeze(
    folder: str,
    *,
    recipe: str,
    source: str | None,
    plan: Mapping[str, object],
    shapes: str,
    script: str,
    environment: Mapping[str, object],
    diff: str,
) -> str:
    """Write everything that defines a run, or a resume, into its folder; returns the URL of the script."""
    texts = {
        SOURCE: source,
        ENVIRONMENT: _json(environment),
        DIFF: diff,
        SHAPES: shapes,
        PLAN: _json(plan),
        SCRIPT: script,
        RECIPE: recipe,
    }
    for name in SUBMITTED:
        if (text := texts[name]) is not None:
            files.write_text(files.join(folder, name), text)
    return files.join(folder, SCRIPT)


def _json(record: Mapping[str, object]) -> str:
    return dump_json(record, indent=1) + "\n"


def make_secret(run_url: str) -> None:
    """Let the nodes of a run tell their own messages from a stranger's, unless they can already."""
    local = files.local_path(run_url)
    if local is None or (local / SECRET).exists():
        return
    new = local / f".{SECRET}.{uuid.uuid4().hex}"
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        stream.write(secrets.token_hex(32))
    new.rename(local / SECRET)


def read_secret(run_url: str) -> bytes | None:
    """The run's secret; None for a run that has none, because it is on one node."""
    local = files.local_path(run_url)
    if local is None or not (local / SECRET).exists():
        return None
    return bytes.fromhex((local / SECRET).read_text())


def lock_run(
    run_url: str, wait_s: float = 0.0, job: str | None = None, replaced: str | None = None
) -> IO[str] | None:
    """Lock a run for this process until the returned file is closed or the process ends.

    Raises UserError that names the holder if another process has the lock. None for remote folders, which
    have no locks: there it looks whether the owner lives. A lock that is still held after `wait_s` by an
    earlier start of the scheduler's `job`, or by the one that it has `replaced`, is taken over: that one's
    node was cut off, and the fence keeps what is left of it from writing.
    """
    # flock, not the existence of a file: the kernel releases it when the process dies, however it dies, and
    # no stale lock has to be removed by hand. The text in the file is only for the message.
    local, deadline = files.local_path(run_url), time.monotonic() + wait_s
    if local is None:
        while (owner := living_owner(run_url, job)) is not None:
            if time.monotonic() >= deadline:
                raise _is_trained(run_url, owner)
            time.sleep(5.0)
        return None
    handle = os.open(local / LOCK, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    stream: IO[str] = open(handle, "a+")  # noqa: SIM115 - held for as long as the run
    while True:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError as error:
            if error.errno in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
                return stream  # a file system without locks: owner.json has to do (fence.py)
            if not isinstance(error, BlockingIOError):
                raise
            if time.monotonic() >= deadline:
                stream.seek(0)
                holder = stream.read().strip() or "an unknown process"
                stream.close()
                _, _, of_job = holder.partition(", job ")
                if not of_job or of_job not in (job, replaced):
                    raise _is_trained(run_url, holder) from None
                stream = _lock_in_place_of(local / LOCK)
                break
            time.sleep(0.1)
    stream.seek(0)
    stream.truncate()
    stream.write(_this_process(job))
    stream.flush()
    return stream


def _lock_in_place_of(path: Path) -> IO[str]:
    """A locked file that has taken the place of one that somebody else has locked."""
    new = path.with_name(f".{LOCK}.{uuid.uuid4().hex}")
    stream = open(os.open(new, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600), "a+")  # noqa: SIM115
    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    new.rename(path)
    return stream


def _is_trained(run_url: str, holder: str) -> UserError:
    return UserError(Problem(run_url, f"is being trained by {holder}", "wait for it, or stop it first"))


def lock_holder(run_url: str) -> str | None:
    """Who trains a run now; None if nobody does. Changes nothing."""
    local = files.local_path(run_url)
    if local is None:
        return living_owner(run_url)
    if not (local / LOCK).exists():
        return None
    with open(local / LOCK) as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return stream.read().strip() or "an unknown process"
    return None


def _place_of(folder: Path) -> tuple[int, int] | None:
    """Device and inode of a folder; None if there is none."""
    try:
        found = folder.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


@dataclass(frozen=True, slots=True)
class LocalMirror:
    """Where journal and tracking state are written: the run folder, or a local copy if that is remote.

    Object stores cannot append, so these files are uploaded whole, at each checkpoint and at the end.
    """

    folder: Path
    run_url: str
    submission: str = ""
    """Folder of the resume that is being trained, relative to the run's; empty for a first launch."""

    spool: Spool | None = None
    """Where the copy of a remote run is."""

    place: tuple[int, int] | None = None
    """Device and inode of a local run folder; None where they are not known."""
    job: str | None = None
    """The scheduler's job that trains it; None without one."""

    def require_place(self) -> None:
        """Raise StorageError where a local run folder was moved or deleted: it is not made again."""
        if self.place is not None and _place_of(self.folder) != self.place:
            raise StorageError(f"{self.folder} was moved or deleted while the run was trained")

    def discard(self) -> None:
        """Remove the copy of a remote run."""
        if self.spool is not None:
            self.spool.close()

    @property
    def is_remote(self) -> bool:
        """Whether `folder` is a copy."""
        return self.folder != files.local_path(self.run_url)

    @property
    def artifacts(self) -> tuple[str, ...]:
        """Files for the tracking server, relative to `folder`; those of them that there are."""
        names = _artifacts_of(self.submission)
        return tuple(name for name in names if (self.folder / name).exists())

    def environment(self) -> Mapping[str, Any]:
        """With which code, and when, it was submitted; empty where that is not known."""
        return self._submitted(ENVIRONMENT)

    def plan(self) -> Mapping[str, Any]:
        """Every derived number; empty where that cannot be read."""
        return self._submitted(PLAN)

    def _submitted(self, name: str) -> Mapping[str, Any]:
        inside = [self.submission] if self.submission else []
        return files.read_record(files.join(self.run_url, *inside, name))

    def accept(self) -> None:
        """Make the submission the run's own: from now on, job.sh of the run starts it."""
        source = files.join(self.run_url, self.submission)
        for name in SUBMITTED if self.submission else ():
            if files.exists(url := files.join(source, name)):
                files.write_bytes(files.join(self.run_url, name), files.read_bytes(url))

    def publish(self, names: Sequence[str] = MIRRORED) -> None:
        """Copy files to a remote run folder; does nothing for a local one."""
        if not self.is_remote:
            return
        for name in names:
            if (path := self.folder / name).exists():
                files.write_bytes(files.join(self.run_url, name), path.read_bytes())


def open_mirror(run_url: str, is_main: bool, submission: str = "", job: str | None = None) -> LocalMirror:
    """The mirror of a run; for a remote run, rank 0 downloads what earlier attempts have written."""
    local = files.local_path(run_url)
    if local is not None:
        return LocalMirror(local, run_url, submission, place=_place_of(local), job=job)
    spool = Spool()
    atexit.register(spool.close)
    mirror = LocalMirror(spool.folder, run_url, submission, spool, job=job)
    if is_main:
        for name in MIRRORED:
            if files.exists(url := files.join(run_url, name)):
                (mirror.folder / name).parent.mkdir(parents=True, exist_ok=True)
                (mirror.folder / name).write_bytes(files.read_bytes(url))
        # These are sent to the tracking server, by their names relative to the journal.
        (mirror.folder / submission).mkdir(parents=True, exist_ok=True)
        for name in _artifacts_of(submission):
            if files.exists(url := files.join(run_url, name)):  # earlier versions wrote fewer
                (mirror.folder / name).write_bytes(files.read_bytes(url))
    return mirror


def _artifacts_of(submission: str) -> list[str]:
    return [f"{submission}/{name}" if submission else name for name in ARTIFACTS]


def next_attempt(folder: Path) -> int:
    """Number of the attempt that starts now: one more than the start lines in the journal."""
    path = folder / JOURNAL
    if not path.exists():
        return 1
    return 1 + sum(1 for _ in read_events(path, "start"))
