"""Where a rank is, as another process reads it."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launcher.clock import Clock
from launcher.guard.beacon import FOLDER_VARIABLE, Beacon, Mark, open_beacon, read_mark


def test_a_reader_sees_phase_step_and_counts(tmp_path: Path) -> None:
    clock = Clock(beacon=Beacon(tmp_path, 3))
    start = read_mark(tmp_path, 3, os.getpid())
    assert (start.where, start.steps, start.step) == ("start", 0, 0)
    for step in (41, 42):
        with clock.phase("data", step):
            pass
        with clock.phase("step"):
            seen = read_mark(tmp_path, 3, os.getpid())
            assert (seen.where, seen.steps, seen.step) == ("step", step - 40, step)
            assert seen.entered_s == pytest.approx(time.monotonic(), abs=5.0)
    assert seen.entries == start.entries + 4


def test_slowest_is_that_of_the_same_phase_and_fades(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    beacon = Beacon(tmp_path, 0)

    def stay(phase: str, seconds: float) -> float:
        beacon.enter("checkpoint" if phase == "checkpoint" else "step")
        now[0] += seconds
        return read_mark(tmp_path, 0, os.getpid()).slowest_s

    assert stay("step", 100.0) == 0.0, "a first stay has no history"
    assert stay("checkpoint", 7.0) == 0.0
    assert stay("step", 1.0) == 100.0
    assert [stay("step", 1.0) for _ in range(2)] == pytest.approx([90.0, 81.0])
    assert stay("checkpoint", 1.0) == 7.0
    for _ in range(60):
        stay("step", 1.0)
    assert stay("step", 1.0) == pytest.approx(1.0)


def test_readers_never_see_half_a_mark(tmp_path: Path) -> None:
    writer = (
        "from pathlib import Path; import sys; from launcher.guard.beacon import Beacon\n"
        "beacon, step = Beacon(Path(sys.argv[1]), 0), 0\n"
        "while True:\n  step += 1; beacon.enter('data', 1000 * step); beacon.enter('step')"
    )
    with subprocess.Popen([sys.executable, "-c", writer, str(tmp_path)]) as process:
        try:
            # of all writes, the half falls on the phase step, so both slots are read while the other changes
            seen: set[int] = set()
            deadline = time.monotonic() + 60
            while len(seen) < 500 and time.monotonic() < deadline:
                mark = read_mark(tmp_path, 0, process.pid)
                assert mark.step == 1000 * mark.steps, mark
                assert mark.entries in (0, 1, 2 * mark.steps, 2 * mark.steps + 1), mark
                seen.add(mark.entries)
            assert len(seen) == 500
        finally:
            process.kill()


@pytest.mark.parametrize("damaged_at", [0, 40, 100])
def test_a_rank_stopped_in_the_middle_of_a_write_shows_its_previous_mark(
    tmp_path: Path, damaged_at: int
) -> None:
    beacon = Beacon(tmp_path, 0)
    beacon.enter("data", 5)
    before = read_mark(tmp_path, 0, os.getpid())
    beacon.enter("step")
    path = tmp_path / "rank-0.beacon"
    content = bytearray(path.read_bytes())
    content[len(content) // 2 + damaged_at] ^= 0xFF  # the third mark is in the second slot
    path.write_bytes(content)
    assert read_mark(tmp_path, 0, os.getpid()) == before


def test_the_mark_of_an_earlier_process_is_not_taken_for_this_ones(tmp_path: Path) -> None:
    Beacon(tmp_path, 0).enter("end")
    assert read_mark(tmp_path, 0, os.getpid()).where == "end"
    assert read_mark(tmp_path, 0, 12345) == Mark(pid=12345)
    assert read_mark(tmp_path, 1, 12345) == Mark(pid=12345), "no file at all"


def test_without_the_variable_there_is_no_beacon(tmp_path: Path) -> None:
    assert open_beacon({"RANK": "2"}) is None
    assert open_beacon({"RANK": "2", FOLDER_VARIABLE: str(tmp_path)}) is not None
    assert [path.name for path in tmp_path.iterdir()] == ["rank-2.beacon"]


@pytest.mark.slow
def test_a_write_takes_under_two_microseconds(tmp_path: Path) -> None:
    beacon, best = Beacon(tmp_path, 0), 1.0
    for _ in range(20):
        start = time.perf_counter()
        for step in range(1000):
            beacon.enter("data", step)
            beacon.enter("step")
        best = min(best, (time.perf_counter() - start) / 2000)
    assert best < 2e-6
