"""Output that cannot end a run: a closed terminal or pipe, or a full disk, loses lines, not training."""

import io
import os
from pathlib import Path
from typing import IO, TextIO, final


@final
class LastingOutput(io.TextIOBase):
    """Standard output or error, and a file that gets a copy; neither ever raises."""

    def __init__(self, stream: TextIO | None, copy: Path | None) -> None:
        self._stream = stream
        self._copy: IO[str] | None = None
        if copy is not None:
            try:
                copy.parent.mkdir(parents=True, exist_ok=True)
                self._copy = open(copy, "a")  # noqa: SIM115 - for the life of the process
            except OSError:
                self._copy = None

    def write(self, text: str) -> int:
        """Write to both, as far as they can be written."""
        for stream in (self._stream, self._copy):
            if stream is not None:
                try:
                    stream.write(text)
                    stream.flush()
                except (OSError, ValueError):
                    self._drop(stream)
        return len(text)

    def isatty(self) -> bool:
        """Whether people read it as it is written."""
        return self._stream is not None and not self._stream.closed and self._stream.isatty()

    def fileno(self) -> int:
        """Of the stream, for those who write to it directly."""
        if self._stream is None:
            raise io.UnsupportedOperation("fileno")
        return self._stream.fileno()

    def _drop(self, stream: IO[str]) -> None:
        """Write no more to a stream; what is left in its buffer goes nowhere."""
        try:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())  # else Python would raise at its own exit
            os.close(null)
        except (OSError, ValueError):
            pass
        if stream is self._copy:
            self._copy = None
        else:
            self._stream = None
