"""The first cause of an end, from what ranks said and what the agent saw."""

import signal
from collections.abc import Mapping, Sequence

import pytest

from launcher.ending import Ending
from launcher.guard.cause import Seen, find_cause
from launcher.guard.rank_end import RankEnd


def end(rank: int, ending: Ending, at: float, message: str = "RuntimeError: x") -> RankEnd:
    return RankEnd(
        rank=rank, host="n1", ending=ending, message=message, place="launcher/train.py:60", time=at
    )


def seen(
    codes: Mapping[int, int] | None = None,
    signals: Sequence[int] = (),
    *,
    verdict: str = "",
    killed: bool = False,
    out_of_memory: bool = False,
    scheduled: bool = False,
    agent_error: str = "",
    regrouping: bool = False,
    began: bool = True,
) -> Seen:
    return Seen(
        host="n1",
        exit_codes=codes or {},
        signals=signals,
        verdict=verdict,
        killed=killed,
        out_of_memory=out_of_memory,
        scheduled=scheduled,
        agent_error=agent_error,
        regrouping=regrouping,
        began=began,
    )


SAVED = "StopRequested: SIGTERM after step 9, which is saved"
TERM, KILL, USR1, INT = (int(s) for s in (signal.SIGTERM, signal.SIGKILL, signal.SIGUSR1, signal.SIGINT))


@pytest.mark.parametrize(
    ("ends", "saw", "ending", "fragment"),
    [
        ([], seen(), "done", ""),
        # rank 1 raised; rank 0 lost it, and spoke first
        ([end(0, "node lost", 1), end(1, "bug", 2)], seen({0: 13, 1: 1}), "bug", "rank 1 on n1"),
        ([end(0, "user error", 1), end(1, "user error", 2)], seen({0: 2, 1: 2}), "user error", "rank 0"),
        ([end(0, "node lost", 1)], seen({1: -KILL}), "node lost", "rank 1 on n1"),
        ([end(0, "node lost", 1)], seen({1: -KILL}, out_of_memory=True), "out of memory", "rank 1"),
        ([end(0, "node lost", 1)], seen({1: -signal.SIGSEGV}), "bug", "SIGSEGV"),
        ([end(0, "node lost", 1)], seen({1: 3}), "bug", "code 3"),
        ([end(0, "hang", 1), end(1, "hang", 2)], seen({0: 12, 1: 12}), "hang", "rank 0"),
        ([end(0, "hang", 1)], seen({0: 12}, verdict="rank 1 is stopped"), "hang", "rank 1 is stopped"),
        ([end(0, "node lost", 1)], seen({0: 13}), "node lost", "rank 0"),
        ([end(0, "stopped by signal", 1, SAVED)], seen(signals=[TERM]), "stopped by user", "step 9"),
        ([end(0, "stopped by signal", 1, SAVED)], seen(signals=[INT]), "stopped by user", "step 9"),
        ([end(0, "stopped by signal", 1, SAVED)], seen(signals=[USR1]), "preempted", "step 9"),
        ([end(0, "stopped by signal", 1, SAVED)], seen(), "stopped by signal", "SIGTERM"),
        (
            [end(0, "stopped by signal", 1, SAVED)],
            seen(signals=[TERM], scheduled=True),
            "stopped by signal",
            "",
        ),
        ([end(0, "time limit", 1, SAVED)], seen(), "time limit", "step 9"),
        # asked before it listened
        ([], seen({0: -TERM, 1: -TERM}, [TERM]), "stopped by user", "before its first step"),
        # asked, and then a rank failed for another reason
        ([end(0, "stopped by signal", 1, SAVED), end(1, "bug", 2)], seen({1: 1}, [TERM]), "bug", "rank 1"),
        ([], seen(signals=[INT, INT], killed=True), "stopped by user", "twice"),
        ([], seen(agent_error="RendezvousTimeoutError: x"), "node lost", "Rendezvous"),
        # where the nodes meet is gone: torch's agent sent its ranks SIGTERM
        (
            [end(1, "stopped by signal", 1, SAVED)],
            seen(agent_error="no connection"),
            "node lost",
            "agent on n1",
        ),
        ([end(0, "stopped by signal", 1, SAVED)], seen(regrouping=True), "regrouped", "joined after step 9"),
        (
            [end(0, "stopped by signal", 1, SAVED)],
            seen(signals=[INT], regrouping=True),
            "stopped by user",
            "9",
        ),
        ([end(0, "node lost", 1)], seen({1: -KILL}, regrouping=True), "node lost", "rank 1"),
        ([], seen(signals=[INT], began=False), "stopped by user", "before its first step"),
    ],
)
def test_the_first_cause_is_named(ends: Sequence[RankEnd], saw: Seen, ending: Ending, fragment: str) -> None:
    cause = find_cause(ends, saw)
    assert cause.ending == ending
    assert fragment in f"{cause.message} {cause.where}"
