"""What a run is at before its first step, said where it takes long: a silent start looks like a hang."""

import threading
import time
from collections.abc import Callable
from typing import final

FIRST_S, AGAIN_S = 4.0, 60.0


@final
class Waiting:
    """Says what is waited for: after a few seconds, then once a minute. Costs nothing where all is fast."""

    def __init__(
        self, say: Callable[[str], None], first_s: float = FIRST_S, again_s: float = AGAIN_S
    ) -> None:
        self._say, self._first_s, self._again_s = say, first_s, again_s
        self._over: threading.Event | None = None

    def begin(self, text: str) -> None:
        """Wait for something else from now on."""
        self.end()
        over = self._over = threading.Event()
        threading.Thread(target=self._follow, args=(text, over), name="waiting", daemon=True).start()

    def end(self) -> None:
        """It has come."""
        if self._over is not None:
            self._over.set()
            self._over = None

    def _follow(self, text: str, over: threading.Event) -> None:
        began, pause_s = time.monotonic(), self._first_s
        while not over.wait(pause_s):
            self._say(f"{text}: {time.monotonic() - began:.0f} s so far")
            pause_s = self._again_s
