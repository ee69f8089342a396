"""Finds the rank that holds up the others. Runs in the agent of each node, beside the ranks. Torch-free.

The watchdogs of several nodes agree through small files in the run's log folder: stall-K/node-I.json is what
node I saw in the K-th check, stall-K/verdict.json what they all go by.
"""

import contextlib
import dataclasses
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import final

from launcher import files
from launcher.guard.beacon import FOLDER_VARIABLE as BEACONS
from launcher.guard.beacon import Mark, read_mark
from launcher.guard.judge import Limits, NodeState, RankState, Verdict, is_stalled, judge
from launcher.guard.stacks import FOLDER_VARIABLE as STACKS
from launcher.guard.stacks import (
    Running,
    dump_stacks,
    look_at,
    main_stack,
    place_of,
    waits_for_others,
)
from launcher.json_text import dump_json, load_json

_POLL_S = 1.0
_GATHER_POLL_S = 0.2
_STACKS_S = 3.0
_AGAIN_S = 10.0
"""After a check that found no culprit, the next one waits this long, and twice as long each time."""


def rank_variables(beacons: Path, logs: Path) -> dict[str, str]:
    """Environment variables of every rank that a watchdog of this node will look at."""
    return {
        BEACONS: str(beacons),
        STACKS: str(logs),
        # A byte into the pipe has the rank write the record of its last collectives into the file.
        "TORCH_NCCL_DEBUG_INFO_PIPE_FILE": str(beacons / "nccl-"),
        "TORCH_FR_DUMP_TEMP_FILE": str(logs / "nccl-rank-"),
    }


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """Where a watchdog is, and whom it watches."""

    num_nodes: int
    per_node: int
    """Ranks of each node."""
    host: str
    pids: Callable[[], Mapping[int, int]]
    """Process of each rank of this node that has started."""
    beacons: Path
    """Folder on this node."""
    logs: Path
    """Folder that all nodes share, new for each start of the ranks."""


@final
@dataclass(slots=True)
class _Stay:
    """How long the watchdog has seen a rank in the same stay."""

    entries: int = 0
    quiet_s: float = 0.0


@final
class Watchdog:
    """A thread that looks about once a second, and calls `report` at most once. Use it in a `with`."""

    def __init__(
        self,
        node: Node,
        limits: Limits,
        report: Callable[[Verdict], None],
        *,
        poll_s: float = _POLL_S,
        gather_s: float = 15.0,
    ) -> None:
        self._node = node
        self._limits = limits
        self._report = report
        self._poll_s = poll_s
        self._gather_s = gather_s
        self._stays: dict[int, _Stay] = defaultdict(_Stay)
        self._check = 1
        self._again_s = _AGAIN_S
        self._not_before = self._looked = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._stop.set()
        # `report` may be what ends the block.
        if threading.current_thread() is not self._thread:
            self._thread.join()

    @property
    def _index(self) -> int:
        """Number of this node, as the rendezvous has given out the ranks."""
        return min(self._node.pids(), default=0) // self._node.per_node

    def _run(self) -> None:
        while not self._stop.wait(self._poll_s):
            if (verdict := self._look()) is not None:
                self._report(verdict)
                return

    def _look(self) -> Verdict | None:
        if self._node.num_nodes > 1 and len(self._node.pids()) == self._node.per_node:
            self._introduce()
        asked = self._node.num_nodes > 1 and self._folder.exists()
        stalled = is_stalled(self._see({}))
        if not stalled:
            self._again_s = _AGAIN_S
        if not asked and (not stalled or time.monotonic() < self._not_before):
            return None
        try:
            dumps = dump_stacks(self._node.logs, self._node.pids(), _STACKS_S)
        except OSError:  # a full disk may be what they hang in
            dumps = {}
        if _ask_for_flight_records(self._node.beacons, self._node.pids()):
            self._stop.wait(_STACKS_S)
        # Seen again: a rank may have left its phase since the first look.
        mine = NodeState(node=self._index, ranks=self._see(dumps))
        if not asked and not is_stalled(mine.ranks):
            return None
        try:
            verdict = self._agree(mine) if self._node.num_nodes > 1 else judge([mine], [self._node.host])
        except OSError:
            verdict = judge([mine], [self._node.host])
        self._not_before = time.monotonic() + self._again_s
        self._again_s *= 2
        return verdict

    def _introduce(self) -> None:
        """Leave the name of this node where the others look when they hear nothing from it."""
        path = self._node.logs / f"node-{self._index}.host"
        with contextlib.suppress(OSError):
            if not path.exists():
                files.write_text(str(path), self._node.host)

    def _see(self, dumps: Mapping[int, str]) -> tuple[RankState, ...]:
        """The ranks of this node now; with stacks, also the place of each."""
        now = time.monotonic()
        # Time in which this process did not look does not count: it was suspended, and the ranks with it.
        passed = min(now - self._looked, 2 * self._poll_s + _STACKS_S * bool(dumps))
        self._looked = now
        states = []
        for rank, pid in self._node.pids().items():
            mark, process, stay = read_mark(self._node.beacons, rank, pid), look_at(pid), self._stays[rank]
            moved = mark.entries != stay.entries or process.state == "traced"
            stay.entries, stay.quiet_s = mark.entries, 0.0 if moved else stay.quiet_s + passed
            states.append(self._state_of(rank, mark, process.state, stay.quiet_s, dumps.get(rank)))
        return tuple(states)

    def _state_of(self, rank: int, mark: Mark, state: Running, quiet_s: float, dump: str | None) -> RankState:
        stack = main_stack(dump) if dump else []
        place = place_of(stack)
        return RankState(
            rank=rank,
            host=self._node.host,
            where=mark.where,
            steps=mark.steps,
            step=mark.step,
            quiet_s=quiet_s,
            since=time.time() - quiet_s,
            limit_s=self._limits.of(mark, state),
            state=state,
            waits=waits_for_others(stack),
            place=str(place) if place else None,
        )

    @property
    def _folder(self) -> Path:
        return self._node.logs / f"stall-{self._check}"

    def _agree(self, mine: NodeState) -> Verdict | None:
        """The verdict of all nodes: of the first that has read all, or has waited long enough."""
        folder, verdict = self._folder, self._folder / "verdict.json"
        files.write_text(str(folder / f"node-{mine.node}.json"), mine.to_json())
        deadline = time.monotonic() + self._gather_s
        while not verdict.exists():
            nodes = [NodeState.from_json(path.read_text()) for path in folder.glob("node-*.json")]
            if len(nodes) == self._node.num_nodes or time.monotonic() > deadline:
                found = judge(nodes, self._hosts())
                own = folder / f".verdict-{mine.node}.json"
                files.write_text(str(own), dump_json(dataclasses.asdict(found) if found else None))
                with contextlib.suppress(FileExistsError):
                    os.link(own, verdict)
            elif self._stop.wait(_GATHER_POLL_S):
                return None
        self._check += 1
        fields = load_json(verdict.read_text())
        return Verdict(rank=fields["rank"], host=fields["host"], line=fields["line"]) if fields else None

    def _hosts(self) -> list[str]:
        """Name of every node, as far as it has written it at its start."""
        paths = [self._node.logs / f"node-{node}.host" for node in range(self._node.num_nodes)]
        return [path.read_text() if path.exists() else "(no name)" for path in paths]


def _ask_for_flight_records(beacons: Path, ranks: Iterable[int]) -> bool:
    """Ask each rank that uses NCCL for its record of collectives; whether there is one."""
    asked = False
    for rank in ranks:
        with contextlib.suppress(OSError):  # another backend, or a rank that has not started to read
            pipe = os.open(beacons / f"nccl-{rank}.pipe", os.O_WRONLY | os.O_NONBLOCK)
            asked = os.write(pipe, b"1") == 1
            os.close(pipe)
    return asked
