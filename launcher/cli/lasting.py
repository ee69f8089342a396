"""Output that cannot end a run: a closed terminal or pipe, or a full disk, loses lines, not training."""

import contextlib
import io
import os
from pathlib import Path
from typing import TextIO, final


@final
class LastingOutput(io.TextIOBase):
    """Standard output or error, and a file that gets a copy; neither ever raises."""

    def __init__(self, stream: TextIO | None, copy: Path | None, *, as_terminal: bool | None = None) -> None:
        self._stream = stream
        self._as_terminal = as_terminal
        self._copy: int | None = None
        if copy is not None:
            with contextlib.suppress(OSError):
                copy.parent.mkdir(parents=True, exist_ok=True)
                self._copy = os.open(copy, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)

    def write(self, text: str) -> int:
        """Write to both, as far as they can be written."""
        if self._stream is not None:
            try:
                self._stream.write(text)
                self._stream.flush()
            except (OSError, ValueError):
                self._drop(self._stream)
        if self._copy is not None:
            with contextlib.suppress(OSError):  # a full disk may have room for the next line
                os.write(self._copy, text.encode(errors="backslashreplace"))
        return len(text)

    def isatty(self) -> bool:
        """Whether people read it as it is written, unless it is to be taken for that or not."""
        if self._as_terminal is not None:
            return self._as_terminal
        return self._stream is not None and not self._stream.closed and self._stream.isatty()

    def fileno(self) -> int:
        """Of the stream, for those who write to it directly."""
        if self._stream is None:
            raise io.UnsupportedOperation("fileno")
        return self._stream.fileno()

    def _drop(self, stream: TextIO) -> None:
        """Write no more to the stream; what is left in its buffer goes nowhere."""
        with contextlib.suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())  # else Python would raise at its own exit
            os.close(null)
        self._stream = None
