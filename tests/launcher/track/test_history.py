"""One quick pass over a journal finds what parsing every line finds."""

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from launcher.track import history as module
from launcher.track.history import read_history
from launcher.track.journal import Journal, read_journal, step_records
from launcher.track.ledger import make_ledger

Fields = dict[str, Any]


def step_fields(step: int, loss: float) -> Fields:
    """As StepRecord writes them."""
    return {
        "step": step,
        "loss": loss,
        "lr": 1e-3,
        "lr_group": {"matrix": 1e-3},
        "grad_norm": abs(loss) / 2,
        "grad_norm_clipped": 1.0,
        "clip_coefficient": 0.5,
        "clip_fraction": 0.25,
        "tokens": 64 * step,
        "tokens_per_s": 3.5e-05,
        "step_time_s": 0.1,
        "data_wait_s": 0.0,
        "grad_norm_layer": {"layers.0": 1.0},
        "phases_s": {"data": 5e-05, "step": 1.5, "log": 0.01, "validation": 0.0, "checkpoint": 0.25},
    }


def write_story(path: Path, seed: int, lines: int = 300) -> None:
    """Steps, validations, resumes and rollbacks in a random order."""
    rng = random.Random(seed)
    step, attempt = 0, 1
    journal = Journal(path, attempt)
    journal.write("start", {"run_name": "a"})
    journal.write("begin", {"from_step": 0, "data_step": 0})
    first = True
    for _ in range(lines):
        chance = rng.random()
        if chance < 0.02:
            journal.close()
            attempt += 1
            journal = Journal(path, attempt)
            journal.write("start", {"run_name": "a"})
        if chance < 0.05:
            step = rng.randrange(step + 1)
            journal.write("begin" if chance < 0.02 else "rollback", {"from_step": step, "step": step})
            first = chance < 0.02
        elif chance < 0.15:
            journal.write("validation", {"step": step, "loss": rng.random(), "seconds": 0.0})
        else:
            step += 10
            loss = rng.choice([rng.gauss(2, 1), math.nan, math.inf]) if chance < 0.25 else rng.gauss(2, 1)
            journal.write("step", step_fields(step, loss) | ({"first_step_s": 1.25} if first else {}))
            first = False
    journal.close()


@pytest.mark.parametrize("seed", range(6))
def test_the_quick_reader_finds_what_the_slow_one_does(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "journal.jsonl"
    write_story(path, seed)
    found, expected = read_history(path), step_records(path)
    assert found.columns["step"].tolist() == list(expected)
    for name in ("loss", "grad_norm", "clip_fraction", "time", "attempt"):
        values = [record[name] for record in expected.values()]
        np.testing.assert_array_equal(found.columns[name], values)
    assert [str(line) for line in found.samples()] == [str(line) for line in expected.values()]
    lines = read_journal(path)
    assert [str(event) for event in found.events] == [str(line) for line in lines if line["event"] != "step"]
    assert len(found.lost["step"]) == sum(line["event"] == "step" for line in lines) - len(expected)
    slow = make_ledger(lines)
    assert found.ledger.seconds == pytest.approx(slow.seconds, abs=1e-6)


def test_a_journal_read_in_parts_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "journal.jsonl"
    write_story(path, 1)
    whole = read_history(path)
    monkeypatch.setattr(module, "_LARGE", 1)
    for processes in (2, 3, 7):
        monkeypatch.setattr(module.os, "cpu_count", lambda processes=processes: processes)
        found = read_history(path)
        for name, values in whole.columns.items():
            np.testing.assert_array_equal(found.columns[name], values)
        assert str(found.events) == str(whole.events)


def test_steps_counted_together_fill_the_same_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "journal.jsonl"
    write_story(path, 2)
    exact = read_history(path).ledger
    monkeypatch.setattr(module, "_EXACT", 20)
    assert read_history(path).ledger.total_s == pytest.approx(exact.total_s)


def test_a_line_of_another_version_is_parsed_whole(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    fields = {"event": "step", "time": 5.0, "attempt": 1, "loss": 2.5, "step": 7}
    path.write_text(
        json.dumps(fields) + "\n" + json.dumps(fields | {"step": 8}, separators=(",", ":")) + "\n"
    )
    found = read_history(path)
    assert found.columns["step"].tolist() == [7, 8]
    assert found.columns["loss"].tolist() == [2.5, 2.5]
    assert np.isnan(found.columns["grad_norm"]).all()


def test_a_damaged_step_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    write_story(path, 3)
    text = path.read_bytes()
    place = text.index(b'"loss": ', len(text) // 2) + 8
    path.write_bytes(text[:place] + b"7" + text[place + 1 :])
    assert read_history(path).damaged == 1


def test_an_absent_journal_is_empty(tmp_path: Path) -> None:
    found = read_history(tmp_path / "journal.jsonl")
    assert (found.step, found.samples(), list(found.events), found.ledger.total_s) == (0, [], [], 0)


def test_samples_are_spread_evenly_and_hold_both_ends(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path, 1)
    for step in range(1, 102):
        journal.write("step", step_fields(step, 1.0))
    journal.close()
    assert [line["step"] for line in read_history(path).samples(6)] == [1, 21, 41, 61, 81, 101]
