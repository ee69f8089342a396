"""A rank's beacon: where its loop is, in a small file that its node can always read. Torch-free."""

import mmap
import os
import struct
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

from launcher.clock import PHASES, Phase

FOLDER_VARIABLE = "LAUNCH_BEACONS"
"""Environment variable of a rank: the node-local folder of beacons. Unset: this rank has none."""

Where = Literal["start"] | Phase | Literal["end"]
WHERE: tuple[Where, ...] = ("start", *PHASES, "end")
"""In the order in which a step goes through them. "start" is all before the loop, "end" all after it."""
_INDEX: Mapping[Where, int] = {where: index for index, where in enumerate(WHERE)}

_FORGET = 0.9
"""Per stay in a phase. A first step of 100 s with compilation weighs less than one of 10 s after 22 steps."""
_BODY = struct.Struct(f"<5qd{len(WHERE)}d")
_CHECK = struct.Struct("<I")
_SLOT = _BODY.size + _CHECK.size


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """What a beacon says."""

    entries: int = 0
    """Counts the phases entered: as long as it stays the same, the rank is in the same stay."""
    pid: int
    where: Where = "start"
    steps: int = 0
    """Steps begun by this process. Unlike `step` it never goes back, so ranks can be compared."""
    step: int = 0
    """The run's own number of the step, from 1; 0 before the first."""
    entered_s: float = 0.0
    """CLOCK_MONOTONIC of this machine."""
    slowest_s: float = 0.0
    """Longest recent stay in this phase, up to the next one; 0 in the first stay."""


@final
class Beacon:
    """The writer. One for each process, used by one thread; a write takes about a microsecond."""

    def __init__(self, folder: Path, rank: int) -> None:
        with open(_path(folder, rank), "w+b") as stream:
            stream.truncate(2 * _SLOT)
            self._map = mmap.mmap(stream.fileno(), 2 * _SLOT)
        self._pid = os.getpid()
        self._entries = self._steps = self._step = self._index = 0
        self._entered = time.monotonic()
        self._slowest = [0.0] * len(WHERE)
        self.enter("start")

    def enter(self, where: Where, step: int | None = None) -> None:
        """Say that the loop enters a phase, and perhaps that the step has this number."""
        now = time.monotonic()
        left, index = self._index, _INDEX[where]
        if self._entries:
            self._slowest[left] = max(now - self._entered, _FORGET * self._slowest[left])
        if where == "data":
            self._steps += 1
        if step is not None:
            self._step = step
        self._index, self._entered = index, now
        self._entries += 1
        body = _BODY.pack(self._entries, self._pid, index, self._steps, self._step, now, *self._slowest)
        # Two slots in turn: a rank that is stopped in the middle of a write leaves the other one whole.
        at = self._entries % 2 * _SLOT
        self._map[at : at + _SLOT] = body + _CHECK.pack(zlib.crc32(body))


def open_beacon(environment: Mapping[str, str]) -> Beacon | None:
    """The beacon of the rank with this environment; None if nobody there reads one."""
    folder = environment.get(FOLDER_VARIABLE)
    return Beacon(Path(folder), int(environment.get("RANK", "0"))) if folder else None


def read_mark(folder: Path, rank: int, pid: int) -> Mark:
    """The newest mark of a process; that of a start, if it has not written one."""
    for _ in range(3):  # both slots are half written only if the rank wrote twice during one read
        try:
            content = _path(folder, rank).read_bytes()
        except FileNotFoundError:
            break
        found = [_parse(content[at : at + _SLOT]) for at in (0, _SLOT)]
        marks = [mark for mark in found if mark is not None and mark.pid == pid]
        if marks:
            return max(marks, key=lambda mark: mark.entries)
    return Mark(pid=pid)


def _parse(slot: bytes) -> Mark | None:
    if len(slot) < _SLOT or _CHECK.unpack(slot[_BODY.size :])[0] != zlib.crc32(slot[: _BODY.size]):
        return None
    entries, pid, index, steps, step, entered_s, *slowest_s = _BODY.unpack(slot[: _BODY.size])
    return Mark(
        entries=entries,
        pid=pid,
        where=WHERE[index],
        steps=steps,
        step=step,
        entered_s=entered_s,
        slowest_s=slowest_s[index],
    )


def _path(folder: Path, rank: int) -> Path:
    return folder / f"rank-{rank}.beacon"
