import errno
import json
import math
import os
import random
import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from launcher.ending import StorageError
from launcher.track.history import read_history
from launcher.track.journal import (
    Journal,
    iterate_lines,
    read_events,
    read_journal,
    step_records,
    whole_bytes,
)
from launcher.world import World
from tests.ranks import run_ranks
from tests.small_run import make_run, small_recipe, train_rank


def refuse(word: str) -> float:
    raise AssertionError(f"{word} is not JSON")


def test_a_line_is_one_json_object_with_event_time_and_attempt(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "run" / "journal.jsonl", attempt=3)
    journal.write("step", {"step": 7, "loss": 2.5, "lr_group": {"ssm dt": 5e-4}, "note": "naïve\nline"})
    journal.close()
    (text,) = (tmp_path / "run" / "journal.jsonl").read_text().splitlines()
    line = json.loads(text)
    assert len(line.pop("crc")) == 8
    assert line.pop("time") > 1.7e9  # seconds since 1970, not milliseconds and not a clock of its own
    fields = {"step": 7, "loss": 2.5, "lr_group": {"ssm dt": 5e-4}, "note": "naïve\nline"}
    assert line == {"event": "step", "attempt": 3, **fields}


def test_a_line_can_be_read_as_soon_as_it_is_written(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl", attempt=1)
    journal.write("step", {"step": 1})
    assert [line["step"] for line in read_journal(journal.path)] == [1]
    journal.close()


def test_every_float_reads_back_bit_equal(tmp_path: Path) -> None:
    patterns = [random.Random(0).getrandbits(64) for _ in range(5000)]
    patterns += [0, 1 << 63, 1, 0x000FFFFFFFFFFFFF, 0x0010000000000000, 0x7FEFFFFFFFFFFFFF]  # zeros and edges
    values = [struct.unpack("<d", struct.pack("<Q", bits))[0] for bits in patterns]
    values = [value for value in values if math.isfinite(value)] + [0.1, 1 / 3, 5.545177444479562]
    journal = Journal(tmp_path / "journal.jsonl", attempt=1)
    for value in values:
        journal.write("step", {"step": 1, "loss": value})
    journal.close()
    read = [line["loss"] for line in read_journal(journal.path)]
    assert [value.hex() for value in read] == [value.hex() for value in values]


def test_non_finite_values_keep_the_file_json_and_are_restored(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl", attempt=1)
    journal.write("note", {"loss": math.nan, "norms": [math.inf, {"worst": -math.inf}]})
    journal.close()
    text = journal.path.read_text()
    plain = json.loads(text, parse_constant=refuse)
    assert math.isnan(float(plain["loss"]))  # what a script without our reader does
    (line,) = read_journal(journal.path)
    assert math.isnan(line["loss"])
    assert line["norms"] == [math.inf, {"worst": -math.inf}]


def test_a_line_torn_at_any_byte_is_not_read_and_is_cut_off_on_opening(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path, attempt=1)
    journal.write("step", {"step": 1, "loss": 2.5})
    whole = path.read_bytes()
    journal.write("step", {"step": 2, "loss": 2.25})
    journal.close()
    both = path.read_bytes()
    for length in range(len(whole), len(both)):
        path.write_bytes(both[:length])
        assert [line["step"] for line in read_journal(path)] == [1]
        again = Journal(path, attempt=2)
        again.write("start", {"from_step": 1})
        again.close()
        assert path.read_bytes().startswith(whole)
        assert [line["event"] for line in read_journal(path)] == ["step", "start"]


@pytest.mark.parametrize("size", [1, 65535, 65536, 65537, 200_000])
def test_the_last_newline_is_found_however_long_the_lines(tmp_path: Path, size: int) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b"x" * size)
    assert whole_bytes(path) == 0
    path.write_bytes(b"x" * size + b"\n" + b"y" * size)
    assert whole_bytes(path) == size + 1


def test_lines_survive_a_killed_writer(tmp_path: Path) -> None:
    script = """if True:
        import os, signal, sys
        from pathlib import Path
        from launcher.track.journal import Journal
        journal = Journal(Path(sys.argv[1]), attempt=1)
        for step in range(50):
            journal.write("step", {"step": step})
        os.kill(os.getpid(), signal.SIGKILL)
    """
    path = tmp_path / "journal.jsonl"
    assert subprocess.run([sys.executable, "-c", script, str(path)]).returncode == -9
    assert [line["step"] for line in read_journal(path)] == list(range(50))


def test_a_damaged_line_in_the_middle_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    good = b'{"event": "a", "time": 1.0, "attempt": 1}\n'
    path.write_bytes(good + b'{"event": \n17\n' + good)
    assert [offset for offset, _ in iterate_lines(path)] == [len(good), path.stat().st_size]
    assert read_history(path).damaged == 2


def test_reading_goes_from_one_line_end_to_another(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    lines = [f'{{"event": "{name}", "time": 1.0, "attempt": 1}}\n'.encode() for name in "abc"]
    path.write_bytes(b"".join(lines))
    one = len(lines[0])
    ((offset, record),) = iterate_lines(path, one, 2 * one)
    assert (offset, record["event"]) == (2 * one, "b")


def test_a_field_cannot_replace_what_the_journal_writes(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl", attempt=1)
    with pytest.raises(ValueError, match=r"\['attempt', 'time'\]"):
        journal.write("step", {"attempt": 2, "time": 0})
    journal.close()
    assert journal.path.read_bytes() == b""


def test_the_attempt_that_went_back_supersedes_what_it_went_back_over(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    first = Journal(path, attempt=1)
    first.write("start", {"from_step": 0})
    for step in (10, 20, 30):
        first.write("step", {"step": step})
    first.close()
    second = Journal(path, attempt=2)
    second.write("start", {"from_step": 15})
    assert sorted(step_records(path)) == [10]  # 20 and 30 were lost with the checkpoint that never was
    second.write("step", {"step": 20})
    second.write("rollback", {"from_step": 10})
    second.write("step", {"step": 30})
    second.close()
    assert {step: line["attempt"] for step, line in step_records(path).items()} == {10: 1, 30: 2}


def test_what_a_full_disk_refuses_waits_and_leaves_whole_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path, 1)
    journal.write("step", {"step": 1})
    stream = journal._stream

    class Full:
        """Takes three bytes more, as a disk that is nearly full does."""

        def __getattr__(self, name: str) -> Any:
            return getattr(stream, name)

        def write(self, data: bytes) -> int:
            return stream.write(data[:3])

    monkeypatch.setattr(journal, "_stream", Full())
    journal.write("step", {"step": 2})
    journal.sync()
    assert journal.problem == "No space left on device"
    assert path.read_bytes().count(b"\n") == 1
    assert path.read_bytes().endswith(b"\n")
    monkeypatch.setattr(journal, "_stream", stream)
    journal.write("step", {"step": 3})
    assert journal.problem is None
    assert [record["step"] for record in read_journal(path)] == [1, 2, 3]
    monkeypatch.setattr(journal, "_stream", Full())
    for step in range(4, 11_004):
        journal.write("step", {"step": step})
    with pytest.raises(StorageError, match=r"journal.jsonl cannot be written: No space left on device"):
        journal.close()


def test_a_run_goes_through_a_time_without_space(tmp_path: Path) -> None:
    run_ranks(1, train_through_a_full_disk, str(tmp_path / "run"), str(tmp_path / "said"))
    assert sorted(step_records(tmp_path / "run/journal.jsonl")) == list(range(1, 21))
    said = (tmp_path / "said").read_text()
    assert said.count("the journal waits in memory: No space left on device") == 1
    assert said.count("the journal is written again") == 1


def train_through_a_full_disk(world: World, run: str, said: str) -> None:
    """From step 5 on ten lines cannot be appended."""
    plain, recipe, refused = Journal._append, small_recipe(), list[bytes]()

    def append(journal: Journal, data: bytes) -> None:
        found = re.search(rb'"step": (\d+), "loss"', data)
        if found and int(found[1]) >= 5 and len(refused) < 10:
            refused.append(data)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        plain(journal, data)

    patch = pytest.MonkeyPatch()
    patch.setattr(Journal, "_append", append)
    with open(said, "w") as stream:
        patch.setattr("sys.stdout", stream)
        train_rank(world, recipe, make_run(Path(run), recipe))


def test_events_are_found_without_reading_the_rest_and_damage_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    lines = [
        '{"event": "start", "time": 1.0, "attempt": 1}',
        '{"event": "step", "step": 1, damaged',
        '{"event":"start","time":1.0,"attempt":2}',
        '{"event": "start", damaged',
        '{"event": "starting", "attempt": 9}',
        '{"event": "end", "class": "done", "status": "FINISHED", "time": 1.0, "attempt": 2}',
    ]
    path.write_text("\n".join(lines) + '\n{"event": "start", "attempt": 3')
    assert [record["attempt"] for record in read_events(path, "start")] == [1, 2]
    assert [record["event"] for record in read_events(path, "start", "end")] == ["start", "start", "end"]


def test_lines_that_are_not_asked_for_are_not_parsed(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    lines = (
        '{"event": "step", "step": 2, damaged',
        '{"event": "begin", "from_step": 2, "time": 1.0, "attempt": 1}',
        '{"event": "step","step":3, "time": 1.0, "attempt": 1}',
    )
    path.write_text("\n".join(lines) + "\n")
    assert [record["event"] for _, record in iterate_lines(path, only=b'"from_step"')] == ["begin"]
    assert [record["event"] for _, record in iterate_lines(path, above_step=2)] == ["begin", "step"]
    (offset, last), *_ = reversed(list(iterate_lines(path, above_step=2)))
    assert (offset, last["step"]) == (path.stat().st_size, 3)
