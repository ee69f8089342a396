"""A run's history in bounded memory, from one pass over its journal: for reports and for whoever watches.

Of every logged step it has the few numbers that are searched for jumps, and where its line is; of some
thousand steps, evenly spread, the whole line; every other line as it is. Torch-free.
"""

import contextlib
import math
import multiprocessing
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray

from launcher.clock import PHASES
from launcher.track.journal import is_sealed, parse_line
from launcher.track.ledger import Ledger, make_ledger

Table = NDArray[np.float64]
COLUMNS: Final = ("time", "attempt", "step", "loss", "grad_norm", "clip_fraction", "offset")
SAMPLES: Final = 2000
"""Most steps whose lines are read whole."""
_LARGE: Final = 1 << 27
"""Bytes of a journal beyond which several processes read it: a million lines are seconds, not minutes."""
_EXACT: Final = 50_000
"""Most steps of which the ledger counts each; of more, neighbours together."""
_BLOCK: Final = 50_000
_WIDTH: Final = len(COLUMNS) + len(PHASES) + 1
# Parsing a line as JSON takes 36 us, finding these numbers 5. A line that looks different is parsed.
_NUMBERS: Final = re.compile(
    rb'\{"event": ?"step", ?"time": ?([^,]+), ?"attempt": ?(\d+), ?"step": ?(\d+), ?"loss": ?"?([^",]+)'
)
_NORMS: Final = re.compile(rb'"grad_norm": ?"?([^",]+)"?, ?[^{}]*?"clip_fraction": ?([^,}]+)')
_SPENT: Final = re.compile(
    b'"phases_s": ?{' + b", ?".join(b'"%s": ?([^,}]+)' % name.encode() for name in PHASES) + b"}"
    b'(?:, ?"first_step_s": ?([^,}]+))?'
)
_STEPS: Final = (b'{"event": "step"', b'{"event":"step"')


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What counts: of steps that were trained again after a resume or a rollback, only the last time."""

    journal: Path
    columns: Mapping[str, Table]
    """Of every logged step, in order, by COLUMNS; `offset` is that of its line, in bytes."""
    lost: Mapping[str, Table]
    """The same of steps that do not count any longer."""
    events: Sequence[dict[str, Any]]
    """All other lines, those that do not count included."""
    ledger: Ledger
    damaged: int
    """Lines that could not be read."""

    @property
    def step(self) -> int:
        """The last logged one that counts; 0 before the first."""
        return int(self.columns["step"][-1]) if len(self.columns["step"]) else 0

    def samples(self, most: int = SAMPLES) -> list[dict[str, Any]]:
        """Whole lines of steps that are evenly spread, the first and the last among them."""
        return self.lines(spread(len(self.columns["step"]), most))

    def lines(self, rows: Sequence[int] | NDArray[np.int64]) -> list[dict[str, Any]]:
        """Whole lines of the steps in these rows of the columns."""
        return self._read(self.columns["offset"][rows] if len(rows) else [])

    def _read(self, offsets: Iterable[float]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        if not self.journal.exists():
            return found
        with open(self.journal, "rb") as stream:
            for offset in offsets:
                stream.seek(int(offset))
                with contextlib.suppress(ValueError):
                    found.append(parse_line(stream.readline()))
        return found

    def last_line(self, attempt: int) -> dict[str, Any]:
        """The last step's line that an attempt has written, counted or not; empty if there is none."""
        offsets = [c["offset"][c["attempt"] == attempt] for c in (self.columns, self.lost)]
        last = max((float(found.max()) for found in offsets if len(found)), default=None)
        return next(iter(self._read([] if last is None else [last])), {})

    def counted(self, name: str) -> list[dict[str, Any]]:
        """Events of a kind that has one for a step: those that count, in order of their step."""
        found: dict[int, dict[str, Any]] = {}
        for event in self.events:
            if "from_step" in event:
                found = {step: kept for step, kept in found.items() if step <= event["from_step"]}
            if event["event"] == name:
                found[event["step"]] = event
        return list(found.values())

    @property
    def validations(self) -> list[dict[str, Any]]:
        """See counted."""
        return self.counted("validation")

    @property
    def best_validation(self) -> dict[str, Any] | None:
        """That of the lowest loss; None where there is none."""
        finite = [one for one in self.validations if math.isfinite(one["loss"])]
        return min(finite, key=lambda one: float(one["loss"]), default=None)

    def of(self, *names: str) -> list[dict[str, Any]]:
        """The events of these kinds."""
        return [event for event in self.events if event["event"] in names]


def spread(count: int, most: int) -> NDArray[np.int64]:
    """At most so many of the first `count` numbers, evenly, both ends among them."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


def read_history(journal: Path, *, alone: bool = False) -> History:
    """Read a journal that may be written at the same time. An absent one is empty. `alone`: start nothing."""
    parts = [_Part()] if not journal.exists() else _read_parts(journal, alone)
    steps = np.concatenate([np.empty((0, _WIDTH)), *(block for part in parts for block in part.blocks)])
    for part in parts:
        part.blocks.clear()
    starts = np.cumsum([0, *(part.count for part in parts)])
    events = [
        (start + row, event) for start, part in zip(starts, parts, strict=False) for row, event in part.events
    ]
    valid = np.ones(len(steps), dtype=bool)
    for row, event in events:
        if "from_step" in event:
            valid[:row] &= steps[:row, COLUMNS.index("step")] <= event["from_step"]
    return History(
        journal=journal,
        columns={name: steps[valid, at] for at, name in enumerate(COLUMNS)},
        lost={name: steps[~valid, at] for at, name in enumerate(COLUMNS)},
        events=[event for _, event in events],
        ledger=make_ledger(_in_order(steps, events)),
        damaged=sum(part.damaged for part in parts),
    )


def _read_parts(journal: Path, alone: bool) -> "list[_Part]":
    size, processes = journal.stat().st_size, 1 if alone else min(os.cpu_count() or 1, 8)
    if size < _LARGE or processes == 1:
        return [_read_part(journal, 0, size)]
    cuts = [size * part // processes for part in range(processes + 1)]
    # Forked, though whoever asks may have threads: a new interpreter would run their script again, and what
    # is done here takes no lock of anybody's.
    with ProcessPoolExecutor(processes, multiprocessing.get_context("fork")) as pool:
        return list(pool.map(_read_part, [journal] * processes, cuts[:-1], cuts[1:]))


@final
@dataclass(slots=True)
class _Part:
    """What was found between two offsets of a journal."""

    blocks: list[Table] = field(default_factory=list)
    """(steps, COLUMNS, then seconds by phase and of a first step); NaN for what a line lacks."""
    words: list[bytes] = field(default_factory=list)
    """Numbers that are not one yet, of all steps in a row."""
    count: int = 0
    events: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    """Each with the number of steps before it."""
    damaged: int = 0

    def add(self, words: Sequence[bytes]) -> None:
        """One step."""
        self.words.extend(words)
        self.count += 1
        if self.count % _BLOCK == 0:
            self.pack()

    def pack(self) -> None:
        """Words to numbers, many at once: of a million steps, words take ten times the room."""
        self.blocks.append(np.fromiter(map(float, self.words), np.float64).reshape(-1, _WIDTH))
        self.words = []


def _read_part(journal: Path, start: int, end: int) -> _Part:
    """The lines that begin from `start` on and before `end`, without one that is cut off."""
    part = _Part()
    with open(journal, "rb", buffering=1 << 20) as stream:
        offset = start
        if start:
            stream.seek(start - 1)
            offset += len(stream.readline()) - 1
        for line in stream:
            if offset >= end or not line.endswith(b"\n"):
                break
            try:
                if line.startswith(_STEPS):
                    _add_step(part, line, offset)
                else:
                    part.events.append((part.count, parse_line(line)))
            except ValueError:
                part.damaged += 1
            offset += len(line)
    part.pack()
    return part


def _add_step(part: _Part, line: bytes, offset: int) -> None:
    sealed = is_sealed(line)  # else nobody knows whether it is whole, until it is parsed
    numbers, norms = _NUMBERS.match(line), _NORMS.match(line, line.find(b'"grad_norm"'))
    spent = _SPENT.match(line, line.rfind(b'"phases_s"'))
    if sealed and numbers is not None and norms is not None and spent is not None:
        *seconds, first = spent.groups(b"nan")
        part.add([*numbers.groups(), *norms.groups(), b"%d" % offset, *seconds, first])
        return
    record = parse_line(line) | {"offset": offset}
    phases = record.get("phases_s", {})
    found = [record.get(name) for name in COLUMNS] + [phases.get(name) for name in PHASES]
    part.add([b"nan" if one is None else str(one).encode() for one in [*found, record.get("first_step_s")]])


def _in_order(steps: Table, events: Sequence[tuple[int, dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """What the ledger needs of each line; of many steps in a row, of several together."""
    stride, done = -(-len(steps) // _EXACT) or 1, 0
    for row, event in [*events, (len(steps), None)]:
        for first in range(done, row, stride):
            yield _as_record(steps[first : min(first + stride, row)])
        done = row
        if event is not None:
            yield event


def _as_record(steps: Table) -> dict[str, Any]:
    """One line in place of several that follow each other."""
    time, attempt, step = steps[-1, :3].tolist()
    seconds, first = steps[:, len(COLUMNS) : -1].sum(axis=0), float(steps[0, -1])
    record: dict[str, Any] = {"event": "step", "time": time, "attempt": int(attempt), "step": int(step)}
    if not np.isnan(seconds).any():
        record["phases_s"] = dict(zip(PHASES, seconds.tolist(), strict=True))
    return record if np.isnan(first) else record | {"first_step_s": first}
