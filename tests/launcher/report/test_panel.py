"""A run at a glance says what the journal says, and warns of what went wrong."""

import math
from pathlib import Path

import numpy as np
import pytest

from launcher.report.panel import panel_rows, sparkline
from launcher.report.run_facts import read_facts
from launcher.track.journal import Journal
from tests.launcher.track.test_history import step_fields
from tests.small_run import make_run, small_recipe


def test_a_sparkline_has_one_bar_a_value_or_means_of_neighbours() -> None:
    assert sparkline(np.arange(8.0), 8)[0] == "▁"
    assert sparkline(np.array([1.0, 1.0]), 8) == "▁▁"
    assert sparkline(np.array([0.0, 0.0, 9.0, 9.0]), 2) == "▁█"
    assert sparkline(np.array([1.0, math.nan, 2.0]), 8)[1] == "×"
    assert sparkline(np.array([math.nan]), 8) == "×"
    assert sparkline(np.zeros(0), 8) == ""
    assert len(sparkline(np.random.default_rng(0).normal(size=1000), 40)) == 40


@pytest.fixture
def run(tmp_path: Path) -> Path:
    make_run(tmp_path / "run", small_recipe())
    return tmp_path / "run"


def test_a_run_that_has_not_begun_has_a_panel(run: Path) -> None:
    assert panel_rows(read_facts(str(run)), 80) == [("run", "run"), ("state", "has not started")]


def test_the_panel_says_how_far_it_is_and_what_went_wrong(run: Path) -> None:
    journal = Journal(run / "journal.jsonl", 1)
    journal.write("start", {"run_name": "small"})
    journal.write("begin", {"from_step": 0, "data_step": 0})
    for step in range(1, 11):
        journal.write("step", step_fields(step, 3.0 if step < 10 else math.nan) | {"mfu": 0.25})
    journal.write("validation", {"step": 5, "loss": 2.5, "accuracy": 0.1})
    journal.write("validation", {"step": 10, "loss": 2.75, "accuracy": 0.1})
    journal.write("skipped", {"step": 9, "data_step": 8, "skips": 1})
    journal.write("checkpoint", {"step": 5, "url": "x", "write_s": 0.1})
    journal.write("save_failed", {"step": 10, "write_s": 0.1, "reason": "No space left"})
    journal.close()
    rows = panel_rows(read_facts(str(run)), 80)
    shown = dict(rows)
    assert shown["step"].endswith("10 of 20, about 0:01 to train")
    assert shown["validation"] == "2.7500 at step 10, best 2.5000 at 5"
    assert "MFU 25.0%" in shown["speed"]
    assert shown["gradient"].endswith("25% of steps clipped")
    assert [text for label, text in rows if label == "warning"] == [
        "the last loss is not finite",
        "1 update(s) not applied, the last one at step 9",
        "step 10 could not be saved: No space left",
    ]
    assert all(len(text) + 13 <= 80 for _, text in rows)
