"""The progress of a build, in lines."""

import sys
import time
from collections.abc import Callable
from typing import final


@final
class BuildProgress:
    """A line now and then: parts, tokens, tokens/s, time left."""

    def __init__(self, total: int, count: int, say: Callable[[str], None]) -> None:
        self._total, self._count, self._say = total, count, say
        self._bytes = self._tokens = self._done = 0
        self._began = self._last = time.monotonic()

    def add(self, size: int, tokens: int) -> None:
        """Count a part that is finished."""
        self._bytes, self._tokens, self._done = self._bytes + size, self._tokens + tokens, self._done + 1
        now = time.monotonic()
        if now - self._last < (1.0 if sys.stderr.isatty() else 10.0) and self._done < self._count:
            return
        self._last = now
        spent = now - self._began
        left = time.strftime("%H:%M:%S", time.gmtime(spent * (self._total / max(1, self._bytes) - 1)))
        if not self._tokens:  # of a pass that makes none
            self._say(f"{self._done:,} of {self._count:,} parts, {left} left")
            return
        rate = self._tokens / max(spent, 1e-9)
        self._say(
            f"{self._done:,} of {self._count:,} parts, {self._tokens:,} tokens, {rate / 1e6:.2f} M tokens/s, "
            f"{left} left"
        )
