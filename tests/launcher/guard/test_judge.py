"""Who is named, for what the watchdogs saw."""

import dataclasses
import itertools
import random

import pytest

from launcher.guard.beacon import WHERE, Mark, Where
from launcher.guard.judge import Limits, NodeState, RankState, Verdict, judge
from launcher.guard.stacks import Running

LEARNS = Limits(stall_s=None, start_s=1800.0)
GIVEN = Limits(stall_s=15.0, start_s=300.0)


@pytest.mark.parametrize(
    ("limits", "where", "steps", "slowest_s", "state", "expected"),
    [
        (LEARNS, "start", 0, 0.0, "running", 1800.0),
        (LEARNS, "step", 1, 0.0, "running", 1800.0),
        (LEARNS, "data", 2, 0.001, "running", 300.0),
        (LEARNS, "step", 9, 0.2, "running", 60.0),
        (LEARNS, "step", 9, 20.0, "running", 200.0),
        (LEARNS, "step", 9, 900.0, "running", 1800.0),
        (LEARNS, "checkpoint", 9, 0.0, "running", 1800.0),
        (LEARNS, "checkpoint", 9, 45.0, "running", 450.0),
        (LEARNS, "validation", 9, 0.5, "running", 300.0),
        (LEARNS, "end", 9, 0.0, "running", 1800.0),
        (LEARNS, "checkpoint", 9, 45.0, "stopped", 30.0),
        (LEARNS, "start", 0, 0.0, "stopped", 30.0),
        (GIVEN, "start", 0, 0.0, "running", 300.0),
        (GIVEN, "step", 9, 20.0, "running", 15.0),
        (GIVEN, "checkpoint", 9, 0.1, "running", 300.0),
        (GIVEN, "checkpoint", 9, 20.0, "running", 300.0),
        (GIVEN, "step", 9, 0.2, "stopped", 15.0),
        (Limits(stall_s=900.0, start_s=60.0), "step", 9, 0.2, "running", 900.0),
    ],
)
def test_limits(
    limits: Limits, where: Where, steps: int, slowest_s: float, state: Running, expected: float
) -> None:
    mark = Mark(pid=1, where=where, steps=steps, slowest_s=slowest_s)
    assert limits.of(mark, state) == expected
    assert expected <= limits.longest_s, "the time limit of collectives is set by it"


def seen(
    rank: int,
    where: Where = "step",
    steps: int = 7,
    *,
    host: str = "a",
    waits: bool | None = True,
    state: Running = "running",
    quiet_s: float = 61.0,
    place: str | None = None,
) -> RankState:
    return RankState(
        rank=rank,
        host=host,
        where=where,
        steps=steps,
        step=steps + 100,
        quiet_s=quiet_s,
        since=0.0,
        limit_s=60.0,
        state=state,
        waits=waits,
        place=place,
    )


def verdict(*ranks: RankState) -> Verdict | None:
    return judge([NodeState(node=0, ranks=ranks)], ["a"])


@pytest.mark.parametrize(
    ("ranks", "named"),
    [
        ([seen(0), seen(1, steps=6)], 1),
        ([seen(0), seen(1, "data", waits=False)], 1),
        ([seen(0), seen(1, state="stopped", waits=None)], 1),
        ([seen(0, waits=None, state="stopped"), seen(1, waits=False)], 0),
        ([seen(0), seen(1, state="uninterruptible", waits=None)], 1),
        ([seen(0), seen(1, waits=None, state="gone")], 1),
        ([seen(0), seen(1, waits=False), seen(2)], 1),
        ([seen(0), seen(1, waits=None), seen(2)], 1),
        ([seen(0, waits=False), seen(1, waits=None)], 0),
        # two wait in a checkpoint for one that has not come so far
        ([seen(0, "checkpoint"), seen(1, "checkpoint"), seen(2, "log", waits=False)], 2),
        # the one that lags waits, for one that has left and does something else
        ([seen(0, "log"), seen(1, "checkpoint", waits=False)], 1),
        ([seen(0, "log"), seen(1, "checkpoint", state="stopped", waits=None)], 1),
        ([seen(0, "end", state="gone", waits=None), seen(1, "checkpoint", waits=False)], 1),
        ([seen(0, waits=False)], 0),
        ([seen(0, "start", 0, waits=None)], 0),
    ],
)
def test_the_rank_that_others_wait_for_is_named(ranks: list[RankState], named: int) -> None:
    found = verdict(*ranks)
    assert found is not None
    assert (found.rank, found.host) == (named, "a")
    assert found.line.startswith(f"rank {named} on a is in ")
    assert "\n" not in found.line


def test_when_all_wait_no_rank_is_named() -> None:
    for waits in (True, None, False):
        found = verdict(*(seen(rank, waits=waits) for rank in range(3)))
        assert found is not None
        assert found.rank is None
        assert "all 3 ranks wait: the network, or a collective that is not the same" in found.line


def test_a_job_is_stalled_only_if_the_rank_that_lags_takes_too_long() -> None:
    assert verdict(seen(0), seen(1, "data", waits=False, quiet_s=59.0)) is None
    assert verdict(seen(0), seen(1, "data", waits=False, quiet_s=61.0)) is not None
    # the others have waited long for a slow checkpoint of rank 0, which may take longer
    slow = dataclasses.replace(seen(0, "checkpoint", 6, waits=False), limit_s=600.0)
    assert verdict(slow, seen(1), seen(2)) is None


def test_a_rank_under_a_debugger_is_not_judged_nor_are_those_that_wait_for_it() -> None:
    assert verdict(seen(0), seen(1, state="traced")) is None


def test_a_node_that_wrote_nothing_is_named_unless_a_rank_is_stopped_elsewhere() -> None:
    found = judge([NodeState(node=0, ranks=(seen(0), seen(1)))], ["a", "b"])
    assert found is not None
    assert (found.rank, found.host) == (None, "b")
    assert "host b (node 1) wrote nothing" in found.line
    stopped = judge([NodeState(node=0, ranks=(seen(0), seen(1, state="stopped")))], ["a", "b"])
    assert stopped is not None
    assert stopped.rank == 1


def test_the_line_says_who_where_and_since_when() -> None:
    found = verdict(
        seen(0, place="launcher/world.py:40 in barrier"),
        seen(1, "data", waits=False, place="launcher/data/batches.py:33 in at"),
    )
    assert found is not None
    assert "rank 1 on a is in data of step 107 since " in found.line
    assert "(61 s, limit 60 s), at launcher/data/batches.py:33 in at" in found.line
    assert found.line.endswith("others wait at launcher/world.py:40 in barrier")


def one_culprit(seed: int) -> tuple[list[NodeState], list[str], int]:
    """Nodes, their hosts, and the one rank that others wait for: all of them are as far or farther."""
    rng = random.Random(seed)
    num_nodes = rng.randint(1, 4)
    num_ranks = num_nodes * rng.randint(1, 4) + 1
    culprit = rng.randrange(num_ranks)
    places = [(steps, where) for steps in (6, 7) for where in WHERE[1:-1]]
    first = rng.randrange(len(places))
    states: list[tuple[Running, bool | None]] = [
        ("stopped", None),
        ("uninterruptible", None),
        ("gone", None),
        ("running", False),
        ("running", None),
    ]
    ranks = []
    for rank in range(num_ranks):
        steps, where = places[first if rank == culprit else rng.randrange(first, len(places))]
        state, waits = rng.choice(states) if rank == culprit else ("running", True)
        ranks.append(seen(rank, where, steps, waits=waits, state=state, host=f"host{rank % num_nodes}"))
    nodes = [NodeState(node=at, ranks=tuple(ranks[at::num_nodes])) for at in range(num_nodes)]
    return nodes, [f"host{at}" for at in range(num_nodes)], culprit


def test_one_culprit_among_waiting_ranks_is_found_by_every_node() -> None:
    for seed in range(300):
        nodes, hosts, culprit = one_culprit(seed)
        verdicts = {judge(order, hosts) for order in itertools.permutations(nodes)}
        assert len(verdicts) == 1, "the order in which files are read does not matter"
        (found,) = verdicts
        assert found is not None, seed
        assert (found.rank, found.host) == (culprit, hosts[culprit % len(hosts)]), seed


def test_what_a_node_saw_survives_its_file() -> None:
    node = NodeState(node=1, ranks=(seen(0, waits=None, place="x.py:1 in f"), seen(1, "end", state="gone")))
    assert NodeState.from_json(node.to_json()) == node
