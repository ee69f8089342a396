"""Which rank, or which node, holds up all the others. Pure functions; torch-free."""

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from launcher.guard.beacon import WHERE, Mark, Where
from launcher.guard.config import GuardConfig
from launcher.guard.stacks import Running
from launcher.json_text import dump_json, load_json

_FACTOR = 10.0
"""A stay in a phase is a hang when it takes this many times the longest recent one,"""
_FLOOR_S = 60.0
"""but in a step not before this: a collection of garbage and a compilation of another shape all end,"""
_STORAGE_FLOOR_S = 300.0
"""and elsewhere not before this: storage, of data or of checkpoints, may hesitate for minutes."""
_STOPPED_S = 30.0
"""A process that the kernel has stopped does not continue by itself, whatever its phase usually takes."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long a rank may stay in a phase, in seconds; from the recipe's guard section."""

    stall_s: float | None
    start_s: float

    @property
    def longest_s(self) -> float:
        """No limit is longer. The time limit of collectives must be: else it ends the ranks that wait."""
        return max(self.start_s, self.stall_s or 0.0)

    def of(self, mark: Mark, state: Running) -> float:
        """For this stay. Phases outside the step, and all without a history, have the limit of a start."""
        stopped_s = _STOPPED_S if self.stall_s is None else self.stall_s
        if state == "stopped":
            return min(stopped_s, self.longest_s)
        if mark.where in ("start", "end") or mark.steps < 2 or not mark.slowest_s:
            return self.longest_s
        floor_s = _FLOOR_S if mark.where == "step" else _STORAGE_FLOOR_S
        learned_s = max(floor_s, _FACTOR * mark.slowest_s)
        if self.stall_s is not None:
            in_step = mark.where not in ("validation", "checkpoint")
            learned_s = self.stall_s if in_step else max(self.stall_s, learned_s)
        return min(learned_s, self.longest_s)


def limits_of(config: GuardConfig) -> Limits:
    """Those of a recipe."""
    return Limits(stall_s=config.stall_s, start_s=config.start_s)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RankState:
    """One rank, as the watchdog of its node sees it."""

    rank: int
    host: str
    where: Where
    steps: int
    step: int
    quiet_s: float
    """Time in this stay, as far as the watchdog itself was running."""
    since: float
    """Beginning of that time (unix time of its host)."""
    limit_s: float
    state: Running
    waits: bool | None
    """Whether it is in a collective; None where the stack does not say, or there is none."""
    place: str | None
    """File, line and function."""

    @property
    def position(self) -> tuple[int, int]:
        """Orders ranks by how far they are."""
        return self.steps, WHERE.index(self.where)

    @property
    def overdue(self) -> bool:
        """Whether it has been there too long."""
        return self.quiet_s > self.limit_s

    @property
    def cannot_run(self) -> bool:
        """Whether the process itself is the reason, rather than its program."""
        ended = self.state == "gone" and self.where != "end"
        return ended or self.state in ("stopped", "uninterruptible")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class NodeState:
    """All ranks of a node."""

    node: int
    ranks: tuple[RankState, ...]

    def to_json(self) -> str:
        """Inverse of from_json."""
        return dump_json(dataclasses.asdict(self))

    @staticmethod
    def from_json(text: str) -> "NodeState":
        """Raises ValueError, KeyError or TypeError for anything else."""
        fields = load_json(text)
        return NodeState(node=fields["node"], ranks=tuple(RankState(**rank) for rank in fields["ranks"]))


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What holds up the attempt."""

    rank: int | None
    """None where it is not one rank: a node that is silent, or all ranks."""
    host: str | None
    line: str
    """For the user: who, where, since when."""


def is_stalled(ranks: Sequence[RankState]) -> bool:
    """Whether the ranks that are least far, for which others may wait, have been there too long."""
    if any(rank.state == "traced" for rank in ranks):
        return False  # somebody is debugging, and all others wait for that
    least = min((rank.position for rank in ranks), default=None)
    return any(rank.overdue for rank in ranks if rank.position == least or rank.state == "stopped")


def judge(nodes: Sequence[NodeState], hosts: Sequence[str]) -> Verdict | None:
    """The one that holds up all others; None if the job is not stalled. `hosts` has every node's name.

    A rank that waits in a collective is never named before one that does not.
    """
    ranks = sorted((rank for node in nodes for rank in node.ranks), key=lambda rank: rank.rank)
    if not is_stalled(ranks):
        return None
    least = min(rank.position for rank in ranks)
    lagging = [rank for rank in ranks if rank.position == least]
    dead = [rank for rank in lagging if rank.cannot_run] or [
        rank for rank in ranks if rank.state == "stopped"
    ]
    if dead:
        return _of_ranks(dead, ranks)
    known = {node.node for node in nodes}
    silent = [f"host {host} (node {at})" for at, host in enumerate(hosts) if at not in known]
    if silent:
        host = next(host for at, host in enumerate(hosts) if at not in known)
        line = f"{', '.join(silent)} wrote nothing; the other nodes wait. {_stay(lagging[0])}"
        return Verdict(rank=None, host=host, line=line)
    for suspects in (
        [rank for rank in lagging if rank.waits is False],
        [rank for rank in lagging if rank.waits is None],
        [rank for rank in ranks if rank.cannot_run or rank.waits is False],
        lagging,
    ):
        # What is true of all ranks says nothing about one.
        if suspects and (len(suspects) < len(ranks) or len(ranks) == 1):
            return _of_ranks(suspects, ranks)
    line = (
        f"all {len(ranks)} ranks wait: the network, or a collective that is not the same on all ranks. "
        + _stay(lagging[0])
    )
    return Verdict(rank=None, host=None, line=line)


def _of_ranks(suspects: Sequence[RankState], ranks: Sequence[RankState]) -> Verdict:
    first = suspects[0]
    more = f" (and {len(suspects) - 1} more)" if len(suspects) > 1 else ""
    waiting = next((rank for rank in ranks if rank not in suspects and rank.place), None)
    others = f"; others wait at {waiting.place}" if waiting else ""
    return Verdict(rank=first.rank, host=first.host, line=f"{_stay(first)}{more}{others}")


def _stay(rank: RankState) -> str:
    state = "" if rank.state == "running" else f", process {rank.state}"
    place = f", at {rank.place}" if rank.place else ""
    step = f" of step {rank.step}" if rank.step else ""
    since = time.strftime("%H:%M:%S", time.localtime(rank.since))
    return (
        f"rank {rank.rank} on {rank.host} is in {rank.where}{step} since {since} "
        f"({rank.quiet_s:.0f} s, limit {rank.limit_s:.0f} s){state}{place}"
    )
