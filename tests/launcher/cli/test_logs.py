"""`launch logs`: which lines, and which file."""

import os
from pathlib import Path

import pytest

from launcher.cli.logs import cut_attempt, find_rank_log
from launcher.errors import UserError

CONSOLE = """\
data: text
attempt 1 starts from step 0
step 1/9  loss 3
launch: node lost: x
data: text
attempt 2 starts from step-3
step 4/9  loss 2
"""


def test_an_attempt_is_cut_out_with_what_it_said_of_its_data() -> None:
    lines = CONSOLE.splitlines(keepends=True)
    assert cut_attempt(CONSOLE, 1, "run") == "".join(lines[:4])
    assert cut_attempt(CONSOLE, 2, "run") == "".join(lines[4:])


@pytest.mark.parametrize(("text", "known"), [(CONSOLE, "attempts are 1, 2"), ("", "none has started")])
def test_an_attempt_that_there_is_not_is_an_error_with_those_there_are(text: str, known: str) -> None:
    with pytest.raises(UserError, match=known):
        cut_attempt(text, 3, "run")


def test_a_rank_s_file_is_that_of_the_attempt_or_the_newest(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        folder = tmp_path / "logs" / f"job-7.0.{number}"
        folder.mkdir(parents=True)
        (folder / "rank-0.log").write_text(f"attempt {number} starts from step 0\n")
        if number < 3:
            (folder / "rank-1.log").write_text(f"rank 1 of {number}\n")
        os.utime(folder, (number, number))
    run = str(tmp_path)
    assert find_rank_log(run, 0, None).parent.name == "job-7.0.3"
    assert find_rank_log(run, 1, None).parent.name == "job-7.0.2", "the last attempt has not got so far"
    assert find_rank_log(run, 1, 1).parent.name == "job-7.0.1"
    with pytest.raises(UserError, match="has no file of this rank in attempt 3"):
        find_rank_log(run, 1, 3)
    with pytest.raises(UserError, match="all print to one console"):
        find_rank_log(run, 9, None)
