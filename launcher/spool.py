"""Temporary folders of a process, and the removal of those that killed processes have left. Torch-free."""

import contextlib
import fcntl
import shutil
import tempfile
import time
from pathlib import Path
from typing import IO, Self, final

_PREFIX, _LOCK = "launch-spool-", "alive"
_NEW_S = 60.0
"""A folder of that age is locked by the process that made it, if that lives."""


@final
class Spool:
    """A private folder on this node. One that is not closed is removed by another process after this one."""

    def __init__(self) -> None:
        _remove_dead()
        self.folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        # A lock and not a process id: containers and nodes may share the folder for temporary files.
        self._lock: IO[str] = open(self.folder / _LOCK, "w")  # noqa: SIM115 - for the life of the process
        with contextlib.suppress(OSError):
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def close(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _remove_dead() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # another user's, or it is being removed
            if time.time() - folder.stat().st_mtime < _NEW_S:
                continue
            with open(folder / _LOCK) as stream:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
