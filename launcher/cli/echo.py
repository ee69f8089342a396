"""A batch job's log as a copy of the run's console: our lines once, and the first cause last."""

import contextlib
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import final

from launcher.cli.lasting import LastingOutput

_POLL_S = 0.2


@final
class Echo:
    """While it is open, what is added to RUN/logs/console.log is also in the job's log, or wherever `show`
    puts it."""

    def __init__(self, console: Path, show: Callable[[str], None] | None = None) -> None:
        self._console = console
        self._show = show or self._print
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="echo", daemon=True)

    def __enter__(self) -> "Echo":
        self._console.parent.mkdir(exist_ok=True)
        self._at = self._console.stat().st_size if self._console.exists() else 0
        sys.stderr = LastingOutput(None, self._console)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        sys.stderr = sys.__stderr__

    def _follow(self) -> None:
        while not self._end.wait(_POLL_S):
            self._copy()
        self._copy()

    def _copy(self) -> None:
        with contextlib.suppress(OSError):
            with open(self._console, "rb") as stream:
                stream.seek(self._at)
                text = stream.read()
            self._at += len(text)
            if text:
                self._show(text.decode(errors="replace"))

    @staticmethod
    def _print(text: str) -> None:
        print(text, end="", flush=True)
