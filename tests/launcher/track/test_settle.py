"""The last line of an attempt."""

from pathlib import Path
from typing import Any

from launcher.track.journal import Journal, read_journal
from launcher.track.settle import last_attempt, settle, settle_silent, write_end


def begin(path: Path, attempt: int) -> Journal:
    journal = Journal(path, attempt)
    journal.write("start", {"run_name": "x"})
    return journal


def ends(path: Path) -> list[dict[str, Any]]:
    return [record for record in read_journal(path) if record["event"] == "end"]


def test_an_attempt_that_died_without_a_word_is_ended_once(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    assert not settle_silent(path), "nothing has started"
    begin(path, 1).close()
    assert settle_silent(path)
    assert not settle_silent(path)
    (end,) = ends(path)
    assert (end["class"], end["status"], end["attempt"]) == ("node lost", "FAILED", 1)


def test_an_agent_corrects_a_rank_that_saw_only_a_consequence(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    write_end(begin(path, 1), "node lost", "RuntimeError: Connection reset by peer")
    assert settle(path, "bug", "rank 1: ZeroDivisionError")
    last = last_attempt(path)
    assert last is not None
    assert last.end is not None
    assert (last.end["class"], last.end["reason"]) == ("bug", "rank 1: ZeroDivisionError")


def test_what_is_said_already_is_not_said_twice(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    write_end(begin(path, 1), "done", "")
    assert not settle(path, "done", "")
    write_end(begin(path, 2), "stopped by signal", "StopRequested: SIGTERM after step 9")
    assert settle(path, "stopped by user", "SIGTERM after step 9")
    assert not settle(path, "stopped by user", "SIGTERM after step 9")
    assert [end["class"] for end in ends(path)] == ["done", "stopped by signal", "stopped by user"]


def test_secrets_do_not_reach_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    write_end(begin(path, 1), "bug", "no answer from https://me:secret@host/x")
    assert "secret" not in path.read_text()
