"""A run is found by its folder, its name, the beginning of it, or as the latest."""

import os
from pathlib import Path

import pytest

from launcher.errors import UserError
from launcher.named_runs import find_run
from tests.launch import assert_one_screen, launch


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three runs; the journal of the first was written last."""
    monkeypatch.chdir(tmp_path)
    for age, name in enumerate(("big-20260101", "small-20260101", "small-20260102")):
        run = tmp_path / "runs" / name
        run.mkdir(parents=True)
        for file in ("recipe.yaml", "plan.json", "journal.jsonl"):
            (run / file).write_text("{}")
            os.utime(run / file, (1000 - age, 1000 - age))
    return tmp_path


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("runs/small-20260101", "small-20260101"),
        ("small-20260102", "small-20260102"),
        ("big", "big-20260101"),
        ("small-20260101", "small-20260101"),
        ("latest", "big-20260101"),
    ],
)
def test_a_run_is_found_by_what_it_is_called(here: Path, word: str, name: str) -> None:
    assert find_run(word) == str(here / "runs" / name)


def test_a_folder_of_that_name_wins_and_addresses_stay(here: Path) -> None:
    (here / "big").mkdir()
    assert find_run("big") == str(here / "big")
    assert find_run("s3://bucket/run") == "s3://bucket/run"


def test_what_is_ambiguous_or_unknown_is_said_with_what_there_is(here: Path) -> None:
    with pytest.raises(UserError, match="is the beginning of 2 runs: small-20260101, small-20260102"):
        find_run("small")
    with pytest.raises(UserError, match="did you mean big-20260101"):
        find_run("bigg-20260101")
    with pytest.raises(UserError, match="runs here: big-20260101"):
        find_run("quux")


def test_a_verb_says_so_on_one_screen(tmp_path: Path) -> None:
    assert_one_screen(launch("status", "latest", folder=tmp_path), "latest: is neither", "no runs in runs/")
