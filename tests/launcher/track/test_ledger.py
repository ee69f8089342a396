"""Every second of a run is in one part, and what had to be trained again is lost work."""

import random
from typing import Any

import pytest

from launcher.track.ledger import PARTS, make_ledger

Record = dict[str, Any]


def line(event: str, time: float, attempt: int = 1, **fields: Any) -> Record:
    return {"event": event, "time": time, "attempt": attempt, **fields}


def step(number: int, time: float, attempt: int = 1, **fields: Any) -> Record:
    return line("step", time, attempt, step=number, phases_s={"data": 1.0, "step": 7.0, "log": 1.0}, **fields)


STORY = [
    line("start", 100.0, submitted=40.0),
    line("begin", 120.0, from_step=0),
    step(10, 130.0, first_step_s=4.0),
    line("validation", 133.0, step=10, seconds=3.0),
    line("checkpoint", 135.0, step=10, seconds=1.5),
    step(20, 145.0),
    line("start", 200.0, attempt=2, submitted=180.0),
    line("begin", 205.0, attempt=2, from_step=10),
    step(20, 215.0, attempt=2),
    line("end", 216.0, attempt=2, **{"class": "done"}),
]


def test_a_story_is_told_second_by_second() -> None:
    ledger = make_ledger(STORY)
    assert ledger.seconds == pytest.approx(
        {
            "queue": 60.0,
            "start": 25.0,
            "first step": 4.0,  # of attempt 2 none was logged
            "step": 3.0 + 7.0,
            "data wait": 2.0,
            "log": 2.0,
            "validation": 3.0,
            "checkpoint": 1.5,
            "lost work": 9.0,
            "other": 0.5 + 3 * 1.0 + 1.0,
            "idle": 55.0,
        }
    )
    assert ledger.total_s == pytest.approx(216.0 - 40.0)
    assert ledger.goodput == pytest.approx(10.0 / 176.0)


def test_a_rollback_loses_what_came_after_its_step() -> None:
    records = [*STORY[:3], step(20, 140.0), line("rollback", 141.0, step=10, from_step=10), step(20, 151.0)]
    assert make_ledger(records).seconds["lost work"] == pytest.approx(9.0)


def test_an_end_that_was_written_later_by_others_is_idle_time() -> None:
    records = [*STORY[:3], line("end", 10_000.0, **{"class": "node lost"})]
    assert make_ledger(records).seconds["idle"] == pytest.approx(10_000.0 - 130.0)


@pytest.mark.parametrize("seed", range(30))
def test_all_parts_add_up_whatever_happened(seed: int) -> None:
    generator = random.Random(seed)
    records, now, attempt, number = list[Record](), 1000.0, 0, 0
    for _ in range(60):
        now += generator.choice((0.0, 0.01, 3.0, 500.0))
        kind = generator.choice(("start", "begin", "step", "step", "step", "validation", "end", "rollback"))
        if kind == "start" or not records:
            attempt += 1
            records.append(line("start", now, attempt))
        elif kind in ("begin", "rollback"):
            number = generator.randint(0, number)
            records.append(line(kind, now, attempt, from_step=number))
        elif kind == "step":
            number += 1
            phases = {name: generator.expovariate(1) for name in ("data", "step", "log", "validation")}
            records.append(line("step", now, attempt, step=number, phases_s=phases, first_step_s=1.0))
        elif kind == "validation":
            records.append(line(kind, now, attempt, step=number, seconds=generator.expovariate(1)))
        else:
            records.append(line("end", now, attempt, **{"class": generator.choice(("done", "hang"))}))
    ledger = make_ledger(records)
    assert ledger.total_s == pytest.approx(records[-1]["time"] - records[0]["time"])
    assert set(ledger.seconds) == set(PARTS)
    assert all(seconds >= 0 for seconds in ledger.seconds.values())


def test_a_long_journal_is_counted_in_bounded_memory_and_nothing_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines: list[dict[str, Any]] = [
        {"event": "start", "time": 0.0, "attempt": 1},
        {"event": "begin", "time": 1.0, "attempt": 1, "from_step": 0},
    ]
    for step in range(1, 1001):
        lines.append({"event": "step", "time": 1.0 + step, "attempt": 1, "step": step})
    lines += [
        {"event": "start", "time": 2000.0, "attempt": 2},
        {"event": "begin", "time": 2001.0, "attempt": 2, "from_step": 900},
    ]
    exact = make_ledger(lines)
    monkeypatch.setattr("launcher.track.ledger._MOST_SPANS", 64)
    coarse = make_ledger(iter(lines))
    assert coarse.total_s == pytest.approx(exact.total_s) == 2001.0
    assert exact.seconds["lost work"] == 100.0
    assert coarse.seconds["lost work"] == pytest.approx(100.0, abs=32.0)
