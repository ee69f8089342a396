"""What agents leave for the supervisor, and the one cause in it."""

from pathlib import Path

import pytest

from launcher.ending import Ending
from launcher.guard.agent_word import AgentWord, first_of, read_agent_words, write_word
from launcher.guard.cause import Cause


def word(host: str, ending: Ending, at: float) -> AgentWord:
    return AgentWord(host=host, time=at, cause=Cause(ending=ending, message=f"{ending} on {host}", where="x"))


def test_words_are_read_as_they_were_written_earliest_first(tmp_path: Path) -> None:
    words = [word("n2", "bug", 2.0), word("n1", "node lost", 1.0)]
    for one in words:
        write_word(tmp_path, one)
    (tmp_path / "agents/n3.json").write_text("{torn")
    (tmp_path / "agents/n4.json").write_text('{"host": "n4", "time": 1, "ending": "x", "message": ""}')
    assert read_agent_words(tmp_path) == words[::-1]


@pytest.mark.parametrize(
    ("endings", "first"),
    [
        ([], None),
        (["done", "done"], "done on n0"),
        # Who lost another node spoke first.
        (["node lost", "bug"], "bug on n1"),
        (["stopped by signal", "user error", "user error"], "user error on n1"),
        (["stopped by signal", "hang"], "hang on n1"),
        (["done", "preempted"], "preempted on n1"),
        (["stopped by user", "out of memory"], "out of memory on n1"),
    ],
)
def test_the_first_cause_is_what_explains_the_others(endings: list[Ending], first: str | None) -> None:
    words = [word(f"n{i}", ending, float(i)) for i, ending in enumerate(endings)]
    found = first_of(words)
    assert (found and found.message) == first
