"""Which attempt a run belongs to: the one that was started last. Torch-free.

A lock is not enough: file systems without one exist, and so do nodes that are cut off from theirs for a
while. RUN/owner.json names the attempt that began last. Any other one, when it comes back, finds a name that
is not its own, and ends before it writes.

A remote run has no lock. There RUN/alive.json, written again every minute, says that its owner lives.
"""

import os
import socket
import time
import uuid
from typing import Any, final

from launcher import files
from launcher.errors import Problem, UserError
from launcher.json_text import dump_json

OWNER, ALIVE = "owner.json", "alive.json"
RENEW_EVERY_S = 60.0
LEASE_S = 180.0
"""After this time without a word, the owner of a remote run counts as dead."""


@final
class Fence:
    """Of rank 0 of one attempt, which takes the run by making this."""

    def __init__(self, run_url: str, attempt: int, job: str | None = None) -> None:
        self._run_url, self._url = run_url, files.join(run_url, OWNER)
        self._token, self._job = uuid.uuid4().hex, job
        record = {"attempt": attempt, "host": socket.gethostname(), "process": os.getpid()}
        record |= {"agent": os.getppid(), "job": job, "token": self._token}
        files.write_text(self._url, dump_json(record) + "\n")
        self._seen = self._look()
        self.renew()

    def renew(self) -> None:
        """Say that the owner of a remote run lives; nothing for a local one."""
        if files.local_path(self._url) is None:
            record = {"token": self._token, "time": time.time(), "job": self._job}
            files.write_text(files.join(self._run_url, ALIVE), dump_json(record) + "\n")

    def release(self) -> None:
        """At the end of the attempt: the owner of a remote run lives no more."""
        owner = read_owner(self._run_url) if files.local_path(self._url) is None else None
        if owner is not None and owner.get("token") == self._token:
            files.remove(files.join(self._run_url, ALIVE))

    def is_ours(self) -> bool:
        """Whether no other attempt has taken the run since."""
        try:
            self.check()
        except UserError:
            return False
        return True

    def glance(self) -> None:
        """As `check`, for a local run only: a remote one would cost a request each time."""
        if files.local_path(self._url) is not None:
            self.check()

    def check(self) -> None:
        """Raise UserError where another attempt has taken the run since. Locally a look at a file's date."""
        now = self._look()
        if now is not None and now == self._seen:
            return
        owner = read_owner(self._run_url)
        if owner is not None and owner.get("token") != self._token:
            who = f"attempt {owner.get('attempt')} on {owner.get('host')}"
            message = f"was taken over by {who}: this attempt has ended, and wrote nothing since"
            raise UserError(Problem(files.shortest(self._run_url), message, "that one continues it"))
        self._seen = now

    def _look(self) -> tuple[int, int] | None:
        """What changes with a local file; None for a remote one, or where there is none."""
        local = files.local_path(self._url)
        try:
            found = local.stat() if local is not None else None
        except OSError:
            return None
        return None if found is None else (found.st_ino, found.st_mtime_ns)


def read_owner(run_url: str) -> dict[str, Any] | None:
    """The attempt that began last; None where that is not known."""
    try:
        return files.read_record(files.join(run_url, OWNER)) or None
    except OSError:
        return None


def living_owner(run_url: str, job: str | None = None) -> str | None:
    """Who trains a remote run now; None if nobody does, as far as one can know: clocks differ.

    An owner of the same scheduler's `job` is gone: a job runs once at a time.
    """
    owner, alive = read_owner(run_url), files.read_record(files.join(run_url, ALIVE))
    if owner is None or alive.get("token") != owner.get("token"):
        return None
    age_s = time.time() - float(alive.get("time", 0.0))
    here = owner.get("host") == socket.gethostname()
    dead = here and not os.path.exists(f"/proc/{owner.get('process')}")
    if age_s > LEASE_S or dead or (job is not None and alive.get("job") == job):
        return None
    return f"process {owner.get('process')} on {owner.get('host')}, heard of {max(0.0, age_s):.0f} s ago"


def is_anothers(run_url: str, job: str | None = None) -> bool:
    """Whether the attempt that began last was not started by this process: an agent, or a `job`'s script."""
    owner = read_owner(run_url)
    if job is not None:
        return owner is not None and owner.get("job") != job
    ours = (socket.gethostname(), os.getpid())
    return owner is not None and (owner.get("host"), owner.get("agent")) != ours
