"""The first cause of an attempt's end, from what its ranks said and what its agent saw. Torch-free."""

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

from launcher.ending import REACTIONS, Ending
from launcher.guard.rank_end import RankEnd

CONSEQUENCES: tuple[Ending, ...] = ("node lost", "hang")
"""Endings of ranks that have lost another one, or wait for it: any other rank's word counts more."""
STOPS: tuple[Ending, ...] = ("stopped by signal", "time limit")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """Why an attempt ended."""

    ending: Ending
    message: str
    where: str = ""
    """Rank, host and file:line, as far as they are known."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What an agent has seen of its own ranks and of itself."""

    host: str
    exit_codes: Mapping[int, int]
    """Of ranks that failed, by rank; negative for a signal."""
    signals: Sequence[int] = ()
    """What the agent itself was sent."""
    killed: bool = False
    """The user asked twice, and the agent ended its ranks."""
    verdict: str = ""
    """The watchdog's line."""
    out_of_memory: bool = False
    """The kernel has ended a process of this machine's share of memory in the meantime."""
    regrouping: bool = False
    """The agent has asked its ranks to save and leave, because nodes have joined."""
    began: bool = True
    """Whether there were ranks: the nodes had met."""
    scheduled: bool = False
    """Under a batch system, which sends SIGTERM for several reasons: its script knows which."""
    agent_error: str = ""
    """Why there was no attempt, or it was cut off: the rendezvous failed."""


def find_cause(ends: Sequence[RankEnd], seen: Seen) -> Cause:
    """The first cause; `ends` of all ranks, earliest first."""
    if seen.killed:
        return Cause(ending="stopped by user", message="interrupted twice: ended at once")
    if seen.verdict:
        return Cause(ending="hang", message=seen.verdict)
    stopped = [end for end in ends if end.ending in STOPS]
    causes = [end for end in ends if end.ending not in CONSEQUENCES and end not in stopped]
    if causes:
        # The earliest: a mistake that every rank finds is told once.
        return _of_rank(causes[0])
    spoken = {end.rank for end in ends}
    silent = {rank: code for rank, code in seen.exit_codes.items() if rank not in spoken and code}
    if silent and not (seen.signals and all(code in _ASKED for code in silent.values())):
        rank, code = min(silent.items())
        return _of_silence(rank, code, seen)
    if seen.agent_error and not seen.signals:
        return Cause(ending="node lost", message=seen.agent_error, where=f"agent on {seen.host}")
    if stopped or (seen.signals and (silent or not seen.began)):
        return _of_stop(stopped, seen)
    if ends:
        return _of_rank(ends[0])
    return Cause(ending="done", message="")


_ASKED = (-signal.SIGTERM, -signal.SIGINT, -signal.SIGUSR1, -signal.SIGUSR2)
"""Exit codes of a rank that a stop request met before it could listen."""


def _of_rank(end: RankEnd) -> Cause:
    place = f", {end.place}" if end.place else ""
    return Cause(ending=end.ending, message=end.message, where=f"rank {end.rank} on {end.host}{place}")


def _of_silence(rank: int, code: int, seen: Seen) -> Cause:
    where = f"rank {rank} on {seen.host}"
    if code == REACTIONS["storage"].code:
        message = "what must be written was refused; is the run folder still where it was?"
        return Cause(ending="storage", message=message, where=where)
    if code > 0:
        return Cause(ending="bug", message=f"ended with code {code} and said nothing", where=where)
    name = signal.Signals(-code).name
    if code != -signal.SIGKILL:
        return Cause(ending="bug", message=f"ended by {name}", where=where)
    if seen.out_of_memory:
        message = "killed by the system, which was out of memory"
        return Cause(ending="out of memory", message=message, where=where)
    return Cause(ending="node lost", message=f"killed by {name}", where=where)


def _of_stop(stopped: Sequence[RankEnd], seen: Seen) -> Cause:
    """Why a run was asked to stop, as far as this agent knows: it knows what it was sent itself."""
    end = min(stopped, key=lambda end: end.rank) if stopped else None
    message = end.message.partition(": ")[2] if end else "stopped before its first step"
    if end is not None and end.ending == "time limit":
        return Cause(ending="time limit", message=message)
    if seen.regrouping and not seen.signals:
        _, _, step = message.partition(" after step ")
        when = f"after step {step}" if step else "before the first step"
        return Cause(ending="regrouped", message=f"nodes have joined {when}")
    if signal.SIGINT in seen.signals or (signal.SIGTERM in seen.signals and not seen.scheduled):
        return Cause(ending="stopped by user", message=message)
    # By convention, batch systems send these ahead of a preemption or a limit.
    if signal.SIGUSR1 in seen.signals or signal.SIGUSR2 in seen.signals:
        return Cause(ending="preempted", message=message)
    return Cause(ending="stopped by signal", message=message)
