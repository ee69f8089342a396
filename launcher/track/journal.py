"""The journal: one JSON object per line, appended during the run. All other records are made from it.

Each line ends with a checksum of itself. A line that is damaged is passed over by every reader.
"""

import contextlib
import errno
import os
import re
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, final

from launcher.ending import StorageError
from launcher.json_text import dump_json, load_json

_MOST_WAITING = 10_000
"""Lines."""


@final
class Journal:
    """Append-only writer. Opening it cuts off an incomplete last line, which a crash may have left.

    What storage refuses waits in memory, the newest 10,000 lines, and is tried again with the next line.
    """

    def __init__(self, path: Path, attempt: int, fence: Callable[[], None] = lambda: None) -> None:
        self.path = path
        self.problem: str | None = None
        """Why lines wait; None if none does."""
        self._fence = fence
        self._attempt = attempt
        self._waiting: deque[bytes] = deque(maxlen=_MOST_WAITING)
        path.parent.mkdir(parents=True, exist_ok=True)
        # Without a buffer: half a line that could not be written must not come back with the next one.
        self._stream: IO[bytes] = open(path, "ab", buffering=0)  # noqa: SIM115 - for the life of the run
        # Without this, the first line of this attempt would be glued to the fragment, and both would be lost.
        os.ftruncate(self._stream.fileno(), whole_bytes(path))

    def write(self, event: str, record: Mapping[str, object]) -> None:
        """Append one line and hand it to the operating system. Adds `event`, `time` and `attempt`.

        Raises StorageError where the file was moved or deleted, and what the fence does, where the run is
        another attempt's by now.
        """
        reserved = {"event", "time", "attempt", "crc"} & record.keys()
        if reserved:
            raise ValueError(f"record has the keys {sorted(reserved)}, which the journal writes itself")
        line = {"event": event, "time": time.time(), "attempt": self._attempt, **record}
        # With the system at each line, so that a killed process loses nothing. An fsync at each line would
        # cost milliseconds on the training thread; only checkpoints need one, see sync.
        self._fence()
        self._require_place(os.fstat(self._stream.fileno()))
        self._waiting.append(_seal(dump_json(line).encode()) + b"\n")
        self._flush()

    def _flush(self) -> None:
        try:
            while self._waiting:
                self._append(self._waiting[0])
                self._waiting.popleft()
            self.problem = None
        except OSError as error:
            self.problem = error.strerror or str(error)

    def _append(self, data: bytes) -> None:
        """Write a line, whole or not at all."""
        before = os.fstat(self._stream.fileno()).st_size
        if self._stream.write(data) != len(data):
            os.ftruncate(self._stream.fileno(), before)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def sync(self) -> None:
        """Make all lines so far survive a power loss, if storage takes them."""
        self._flush()
        try:
            os.fsync(self._stream.fileno())
        except OSError as error:
            self.problem = error.strerror or str(error)

    def _require_place(self, now: os.stat_result) -> None:
        """Raise StorageError where the file is no longer where it was: nobody would find what is written."""
        try:
            there = os.stat(self.path)
        except FileNotFoundError:
            there = None
        if there is None or (there.st_dev, there.st_ino) != (now.st_dev, now.st_ino):
            raise StorageError(f"{self.path.parent} was moved or deleted while the run was trained")

    def close(self) -> None:
        """Sync and close; a second call does nothing. Raises StorageError where lines still wait."""
        if self._stream.closed:
            return
        self.sync()
        self._stream.close()
        if self._waiting:
            raise StorageError(f"{self.path} cannot be written: {self.problem}; make room")


def whole_bytes(path: Path) -> int:
    """Length of a file up to and including its last newline."""
    # A line is whole exactly if its newline is there. "{...}\n{...}\n{"lo" counts to the second newline. Read
    # backwards in blocks, since a journal can have gigabytes and its last line is short.
    with open(path, "rb") as stream:
        end = stream.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - 65536)
            stream.seek(start)
            newline = stream.read(end - start).rfind(b"\n")
            if newline >= 0:
                return start + newline + 1
            end = start
    return 0


def iterate_lines(
    path: Path,
    start: int = 0,
    end: int | None = None,
    *,
    only: bytes = b"",
    above_step: int | None = None,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (byte offset after the line, record) of each good line between two offsets at line ends.

    `only` those that contain a text, or have a step above a number: others are not parsed.
    """
    with open(path, "rb") as stream:
        stream.seek(start)
        offset = start
        for line in stream:
            offset += len(line)
            if not line.endswith(b"\n") or (end is not None and offset > end):
                return  # an incomplete line of a crash, or one still being written
            if only not in line or (above_step is not None and not _is_above(line, above_step)):
                continue
            with contextlib.suppress(ValueError):
                yield offset, parse_line(line)


_STEP = re.compile(rb'"step": ?(\d+)')


def _is_above(line: bytes, step: int) -> bool:
    found = _STEP.search(line)
    return found is None or int(found[1]) > step


_SEAL = b', "crc": "'
_KEYS: Mapping[str, type | tuple[type, ...]] = {
    "event": str,
    "time": (int, float),
    "attempt": int,
    "step": int,
    "from_step": int,
    "run_name": str,
    "artifacts": list,
    "description": str,
    "fingerprint": str,
    "source": dict,
    "class": str,
    "status": str,
}
_NEEDED = {
    "begin": ("from_step",),
    "data": ("description", "fingerprint", "source"),
    "step": ("step",),
    "checkpoint": ("step",),
    "end": ("class", "status"),
}
"""Beside event, time and attempt."""


def _seal(text: bytes) -> bytes:
    """A line of JSON, with the checksum of what is before it as its last key."""
    return text[:-1] + _SEAL + f'{zlib.crc32(text[:-1]):08x}"}}'.encode()


def parse_line(line: bytes) -> dict[str, Any]:
    """Parse one line, with non-finite floats restored. Raises ValueError if it is damaged."""
    is_sealed(line)
    try:
        record = load_json(line)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(record, dict):
        raise ValueError("it is not an object of JSON")
    record.pop("crc", None)
    needed = ("event", "time", "attempt", *_NEEDED.get(str(record.get("event")), ()))
    for key in (*needed, *(key for key in _KEYS if key in record)):
        if not isinstance(record.get(key), _KEYS[key]):
            raise ValueError(f"its {key} is not right")
    return record


def is_sealed(line: bytes) -> bool:
    """Whether a line has its checksum; earlier versions wrote none. Raises ValueError if it is another."""
    content, seal, crc = line.rpartition(_SEAL)
    if seal and int(crc[:8], 16) != zlib.crc32(content):
        raise ValueError("its checksum is another")
    return bool(seal)


def read_events(path: Path, *events: str) -> Iterator[dict[str, Any]]:
    """Whole lines of these kinds, one after the other. Those that cannot be read are passed over.

    Made for journals of millions of steps: other lines are not parsed, and nothing is kept in memory.
    """
    # Every line begins with its event, as Journal.write has it; tools that rewrite JSON may drop the space.
    heads = tuple(f'{{"event":{space}"{event}"'.encode() for event in events for space in ("", " "))
    with open(path, "rb") as stream:
        for line in stream:
            if line.startswith(heads) and line.endswith(b"\n"):
                with contextlib.suppress(ValueError):
                    yield parse_line(line)


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """Every record in the order written, without an incomplete last line."""
    return (record for _, record in iterate_lines(path))


def read_journal(path: Path) -> list[dict[str, Any]]:
    """All of read_records at once."""
    return list(read_records(path))


def step_records(path: Path) -> dict[int, dict[str, Any]]:
    """The valid record of each logged step.

    A line with `from_step` k (the start of an attempt, or a rollback) goes back to step k. It supersedes all
    earlier records of steps after k, even before those steps have been trained again.
    """
    # Steps 10, 20, 30, then `from_step` 15, then 20: the valid ones are 10 and the second 20. 30 is gone
    # until it is trained again, because the weights that gave it are gone.
    steps: dict[int, dict[str, Any]] = {}
    for record in read_journal(path):
        if "from_step" in record:
            steps = {step: kept for step, kept in steps.items() if step <= record["from_step"]}
        if record["event"] == "step":
            steps[record["step"]] = record
    return steps
