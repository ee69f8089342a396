"""What a checkpoint is worth by itself is what its run's validation said."""

import json
from pathlib import Path

import pytest

from launcher.track.journal import read_journal
from tests.launch import assert_one_screen, launch
from tests.small_run import train_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 20 steps on two ranks, with validations at 10 and 20."""
    found = tmp_path_factory.mktemp("eval")
    train_run(found / "runs/one", "parallel.strategy=fsdp2", ranks=2)
    return found


def validations(folder: Path) -> dict[int, dict[str, float]]:
    lines = read_journal(folder / "runs/one/journal.jsonl")
    return {line["step"]: line for line in lines if line["event"] == "validation"}


@pytest.mark.parametrize("step", [10, 20])
def test_eval_says_what_the_run_s_validation_said(folder: Path, step: int) -> None:
    done = launch("eval", "one", "--step", str(step), "--json", folder=folder)
    assert done.returncode == 0, done.stderr
    found, expected = json.loads(done.stdout), validations(folder)[step]
    assert (found["step"], found["sequences"]) == (step, expected["sequences"])
    for name in ("loss", "accuracy", "bits_per_byte"):
        assert found[name] == pytest.approx(expected[name], rel=1e-6)


def test_other_data_gives_another_number(folder: Path) -> None:
    done = launch("eval", "one", "train.validation_sequences=4", "data.seq_len=16", folder=folder)
    assert done.returncode == 0, done.stderr
    assert "4 sequences" in done.stdout
    assert f"{validations(folder)[20]['loss']:.4f}" not in done.stdout


def test_parts_of_a_mixture_have_rows_of_their_own(folder: Path, tmp_path: Path) -> None:
    for name, text in (("a", "abc" * 2000), ("b", "xyz" * 2000)):
        (tmp_path / name).mkdir()
        for number in range(4):
            (tmp_path / name / f"{number}.txt").write_text(text)
    parts = ", ".join(
        f"{name}: {{weight: 1, source: {{type: files, url: {tmp_path / name}}}}}" for name in "ab"
    )
    source = f"data.source={{type: mixture, parts: {{{parts}}}}}"
    done = launch("eval", "one", source, "data.validation_fraction=0.5", "--json", folder=folder)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found["loss_by_part"]) == {"a", "b"}
    assert found["loss"] == pytest.approx(sum(found["loss_by_part"].values()) / 2)


def test_what_cannot_be_scored_is_one_message(folder: Path) -> None:
    assert_one_screen(launch("eval", "one", "--step", "15", folder=folder), "there are 10, 20")
    assert_one_screen(launch("eval", "one", "data.seqlen=16", folder=folder), "did you mean 'seq_len'")
    words = ("train.validation_sequences=0", "train.validate_every=null")
    assert_one_screen(launch("eval", "one", *words, folder=folder), "there is nothing to score")
