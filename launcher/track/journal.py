"""The journal: one JSON object a line, appended as a run happens. Everything else is made from it."""

import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, final

from launcher.json_text import dump_json, load_json


@final
class Journal:
    """Append-only writer. Opening cuts off the fragment that a crash may have left in the last line."""

    def __init__(self, path: Path, attempt: int) -> None:
        self.path = path
        self._attempt = attempt
        path.parent.mkdir(parents=True, exist_ok=True)
        self._stream: IO[bytes] = open(path, "ab")  # noqa: SIM115 - open for the life of the run
        os.ftruncate(self._stream.fileno(), whole_bytes(path))

    def write(self, event: str, record: Mapping[str, object]) -> None:
        """Append one line and hand it to the operating system. `event`, `time` and `attempt` are added."""
        reserved = {"event", "time", "attempt"} & record.keys()
        if reserved:
            raise ValueError(f"record has the keys {sorted(reserved)}, which the journal writes itself")
        line = {"event": event, "time": time.time(), "attempt": self._attempt, **record}
        self._stream.write(dump_json(line).encode() + b"\n")
        self._stream.flush()

    def sync(self) -> None:
        """Make every line so far survive power loss."""
        os.fsync(self._stream.fileno())

    def close(self) -> None:
        """Sync and close; a second call does nothing."""
        if not self._stream.closed:
            self.sync()
            self._stream.close()


def whole_bytes(path: Path) -> int:
    """Length of a file up to and including its last newline."""
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


def iterate_lines(path: Path, start: int = 0, end: int | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (byte offset after the line, record) of each whole line between two offsets, both line ends."""
    with open(path, "rb") as stream:
        stream.seek(start)
        offset = start
        for line in stream:
            offset += len(line)
            if not line.endswith(b"\n") or (end is not None and offset > end):
                return  # the fragment of a crash, or a line still being written
            yield offset, parse_line(line, f"{path}, byte {offset - len(line)}")


def parse_line(line: bytes, place: str) -> dict[str, Any]:
    """One line as a record, with non-finite floats restored. Raises ValueError naming the place."""
    try:
        record = load_json(line)
    except ValueError as error:
        raise ValueError(f"{place}: not a line of JSON: {line[:80]!r} ({error})") from None
    if not isinstance(record, dict):
        raise ValueError(f"{place}: a line of the journal is a JSON object, not {line[:80]!r}")
    return record


def read_journal(path: Path) -> list[dict[str, Any]]:
    """Every record in the order written; a torn last line is left out."""
    return [record for _, record in iterate_lines(path)]


def step_records(path: Path) -> dict[int, dict[str, Any]]:
    """The record that counts for each logged step.

    A line with `from_step` k (the start of an attempt, or a rollback) goes back to step k, so it supersedes
    all earlier records of steps after k, whether or not those steps have been trained again yet.
    """
    steps: dict[int, dict[str, Any]] = {}
    for record in read_journal(path):
        if "from_step" in record:
            steps = {step: kept for step, kept in steps.items() if step <= record["from_step"]}
        if record["event"] == "step":
            steps[record["step"]] = record
    return steps
