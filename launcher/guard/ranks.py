"""The ranks of one node as their agent sees them: their process ids, and signals to them. Torch-free."""

import contextlib
import ctypes
import os
import platform
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import final

TICK_S = 0.1


def announce(folder: Path, rank: int) -> None:
    """In a rank: say that it listens to signals."""
    path = folder / f"rank-{rank}.pid"
    path.with_suffix(".new").write_text(str(os.getpid()))
    path.with_suffix(".new").rename(path)


def die_with_parent() -> None:
    """Ask Linux to kill this rank when the agent that started it dies."""
    # An orphan would continue to write checkpoints into a run that another attempt has already resumed.
    if platform.system() == "Linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL)


class StopWaiting(BaseException):
    """A stop request has come where nothing is running that could save."""


@final
class NodeRanks:
    """Passes stop requests on to the ranks of this node, also to those that have yet to start listening."""

    # In a signal handler the agent only notes what came: a handler may not wait. A rank that does not listen
    # yet would die of the signal, and torch's agent would take that for a failure.

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.signals: list[int] = []
        """What this process was sent."""
        self.killed = False
        self.regrouping = False
        self._waits = False
        self._told: set[int] = set()
        self._thread = threading.Thread(target=self._follow, name="node-ranks", daemon=True)

    def start(self) -> None:
        """Start to pass on."""
        self._thread.start()

    def forget(self) -> None:
        """Before an attempt: its ranks are new processes."""
        self.regrouping = False
        for path in self.folder.glob("rank-*.pid"):
            path.unlink()

    def receive(self, number: int, _frame: object) -> None:
        """A signal handler of this process."""
        self.signals.append(number)
        if self._waits:
            self._waits = False
            raise StopWaiting

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """While there are no ranks that could save: a stop request raises StopWaiting in the main thread."""
        if self.signals:
            raise StopWaiting
        self._waits = True
        try:
            yield
        finally:
            self._waits = False

    def regroup(self) -> None:
        """Ask all ranks to save and leave, because nodes have joined."""
        self.regrouping = True

    def pids(self) -> dict[int, int]:
        """Process ids by rank, of ranks that listen."""
        paths = self.folder.glob("rank-*.pid")
        return {int(path.stem.removeprefix("rank-")): int(path.read_text()) for path in paths}

    def kill(self) -> None:
        """End all ranks now."""
        for pid in self.pids().values():
            _send(pid, signal.SIGKILL)

    def _follow(self) -> None:
        while True:
            time.sleep(TICK_S)
            if not self.signals and not self.regrouping:
                continue
            if self.signals.count(signal.SIGINT) > 1 and not self.killed:
                self.killed = True
                self.kill()
            for pid in self.pids().values():
                if pid not in self._told:
                    self._told.add(pid)
                    _send(pid, self.signals[0] if self.signals else signal.SIGUSR1)


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it may have ended
        os.kill(pid, number)
