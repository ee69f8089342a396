"""Each number of a report is the journal's, the plan's or the recipe's; it is one file."""

import html
import json
import math
import re
import shutil
import subprocess
import warnings
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from launcher.report import run_report
from launcher.report.page import Section, make_page
from launcher.report.run_facts import RunFacts, read_facts
from launcher.report.run_tables import (
    attempts,
    differences,
    plan_against_measured,
    results,
    time_spent,
    troubles,
    what_was_run,
)
from launcher.track.journal import Journal, read_journal, step_records
from launcher.track.ledger import make_ledger
from tests.launch import assert_one_screen, launch
from tests.launcher.track.test_history import step_fields
from tests.small_run import make_run, small_recipe, train_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run, and then an attempt that went badly: a skip, a rollback, a save that failed, a kill."""
    folder = tmp_path_factory.mktemp("report") / "first"
    train_run(folder)
    journal = Journal(folder / "journal.jsonl", 2)
    journal.write(
        "start", {"run_name": "small", "world_size": 3, "recipe": {}, "made_with": {"device": "H1"}}
    )
    journal.write("begin", {"from_step": 10, "data_step": 10, "checkpoint": None})
    journal.write("step", step_fields(11, 2.25))
    journal.write(
        "skipped", {"step": 12, "data_step": 11, "skips": 1, "sample": 77, "module": "layers.1.<b>"}
    )
    journal.write("rollback", {"from_step": 10, "step": 10, "data_step": 12, "rollbacks": 1})
    journal.write("step", step_fields(11, 2.125))
    journal.write("save_failed", {"step": 11, "write_s": 0.1, "reason": "No space left on device"})
    journal.write("end", {"status": "FAILED", "class": "node lost", "reason": "killed"})
    journal.close()
    return folder


@pytest.fixture(scope="module")
def facts(run: Path) -> RunFacts:
    return read_facts(str(run))


def as_dict(rows: list[list[str]]) -> dict[str, list[str]]:
    return {row[0]: row[1:] for row in rows}


def test_what_it_has_reached_is_what_the_journal_says(run: Path, facts: RunFacts) -> None:
    last = max(step_records(run / "journal.jsonl"))
    validations = [r for r in read_journal(run / "journal.jsonl") if r["event"] == "validation"]
    at_10 = next(r for r in validations if r["step"] == 10)
    rows = as_dict(results(facts))
    assert rows["last training step"][:2] == [f"{last}", "2.1250"]
    # That of step 20 does not count since the second attempt went back to step 10.
    expected = ["10", f"{at_10['loss']:.4f}"]
    assert rows["last validation"][:2] == rows["best validation"][:2] == expected
    assert rows["last validation"][3:] == [f"{at_10['accuracy']:.3f}", f"{at_10['bits_per_byte']:.4f}"]


def test_attempts_are_those_of_the_journal(facts: RunFacts) -> None:
    first, second = attempts(facts)[1:]
    assert [first[0], *first[2:5], *first[6:]] == ["1", "1", "0", "20", "done", ""]
    assert [second[0], *second[2:5], *second[6:]] == ["2", "3", "10", "11", "node lost", "killed"]


def test_troubles_say_which_sample_and_which_module(facts: RunFacts) -> None:
    rows = troubles(facts)[1:]
    assert [row[:2] for row in rows] == [
        ["update not applied", "12"],
        ["rolled back", "10"],
        ["not saved", "11"],
    ]
    assert "sample 77" in rows[0][2]
    assert "No space left on device" in rows[2][2]


def test_time_adds_up_to_the_ledger(run: Path, facts: RunFacts) -> None:
    ledger = make_ledger(read_journal(run / "journal.jsonl"))
    rows = as_dict(time_spent(facts))
    assert rows["all"][0] == f"{ledger.total_s:,.1f} s"
    assert rows["start"][0] == f"{ledger.seconds['start']:,.1f} s"


def test_the_plan_is_that_of_the_run(run: Path, facts: RunFacts) -> None:
    plan: dict[str, Any] = json.loads((run / "plan.json").read_text())
    rows = as_dict(what_was_run(facts))
    assert rows["parameters"] == [f"{plan['num_parameters']:,}"]
    assert rows["base shapes"] == [plan["base_shapes_hash"]]
    assert rows["coordinate check"][0].startswith("none is recorded")
    assert rows["step"] == [f"11 of 20, {plan['tokens_per_step']:,} tokens each"]
    measured = as_dict(plan_against_measured(facts, facts.history.samples()))
    assert measured["tokens"] == [f"{plan['total_tokens']:,}", f"{64 * 11}"]
    assert measured["memory of a device"][1].startswith("-"), "there is no GPU"
    assert measured["model FLOPs utilization"][1].startswith("unknown")


def test_a_report_is_one_file_that_names_no_other(run: Path, tmp_path: Path) -> None:
    done = launch("report", str(run), "-o", str(tmp_path / "out"), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "out/index.html").read_text()
    pictures = {path.stem for path in (tmp_path / "out").glob("*.png")}
    assert pictures == {"loss", "gradients", "rates", "flow", "speed", "time"}
    found = _Links()
    found.feed(text)
    assert len(found.links) == len(pictures)
    assert all(link.startswith("data:image/png;base64,") for link in found.links)
    assert "layers.1.<b>" not in text, "what a run wrote is text, not markup"
    assert html.escape("layers.1.<b>") in text
    assert "<script" not in text


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]


def test_several_runs_are_compared_by_what_differs(run: Path, tmp_path: Path) -> None:
    train_run(tmp_path / "second", "optim.lr=2e-3", "train.steps=10")
    head, *rows = differences([read_facts(str(run)), read_facts(str(tmp_path / "second"))])
    assert {"optim.lr", "train.steps"} <= set(head)
    assert "model.d_model" not in head
    losses = [float(row[head.index("best validation")]) for row in rows]
    assert losses == sorted(losses), "best first"
    cells = {row[0]: row[head.index("optim.lr")] for row in rows}
    assert cells == {"first": "0.008", "second": "0.002"}
    done = launch("report", str(run), "second", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "2 runs" in (tmp_path / "report/index.html").read_text()


def test_a_run_without_steps_has_a_report(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "new", ignore=shutil.ignore_patterns("report", "checkpoints"))
    lines = (run / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "new/journal.jsonl").write_bytes(b"".join(lines[:2]))
    assert launch("report", "./new", folder=tmp_path).returncode == 0
    (tmp_path / "new/journal.jsonl").unlink()
    done = launch("report", "./new", folder=tmp_path)
    assert_one_screen(done)


def test_what_cannot_be_written_is_one_line(run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = launch("report", str(run), "-o", str(tmp_path / "file"), folder=tmp_path)
    assert_one_screen(done)
    assert "cannot be written" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium is installed here")
def test_a_browser_without_a_network_shows_every_picture(run: Path, tmp_path: Path) -> None:
    assert launch("report", str(run), "-o", str(tmp_path / "out"), folder=tmp_path).returncode == 0
    page = tmp_path / "out/index.html"
    script = "<script>document.title = [...document.images].map(i => i.naturalWidth).join()</script></body>"
    page.write_text(page.read_text().replace("</body>", script))
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--dump-dom"]
    command += ["--disable-background-networking", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    title = re.search(r"<title>(.*?)</title>", done.stdout)
    assert title is not None
    widths = [int(width) for width in title[1].split(",")]
    assert len(widths) == 6
    assert min(widths) > 1000


def test_cells_are_text() -> None:
    page = make_page("<a>", [Section(title="<b>", note="<c>", rows=[["<d>", ""], ["<e>", "&"]])])
    for mark in "abcde":
        assert f"<{mark}>" not in page.replace("<body>", "")
        assert f"&lt;{mark}&gt;" in page


def test_without_matplotlib_there_is_a_page_of_tables(
    facts: RunFacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_report, "can_draw", lambda: False)
    text = run_report.report_run(facts, tmp_path)
    assert "pip install" in text
    assert "<img" not in text
    assert "Where the time went" in text
    assert "Learning rates" not in text, "nothing of it is left"


@pytest.mark.parametrize("losses", [[math.nan] * 3, [2.0], [math.inf, 2.0, -1.0]])
def test_losses_that_cannot_be_drawn_do_not_end_a_report(tmp_path: Path, losses: list[float]) -> None:
    run_url = make_run(tmp_path / "run", small_recipe())
    journal = Journal(tmp_path / "run/journal.jsonl", 1)
    journal.write("start", {"run_name": "small", "world_size": 1, "recipe": {}})
    journal.write("begin", {"from_step": 0, "data_step": 0})
    for step, loss in enumerate(losses, start=1):
        journal.write("step", step_fields(step, loss))
    journal.close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text = run_report.report_run(read_facts(run_url), tmp_path)
    assert "Learning rates" in text


def test_what_may_be_a_secret_is_not_shown(tmp_path: Path) -> None:
    secret = "cluster.env={HF_TOKEN: hf-4711}"
    train_run(tmp_path / "one", secret, "train.steps=10")
    train_run(tmp_path / "two", "cluster.env={HF_TOKEN: hf-4712}", "train.steps=10")
    facts = [read_facts(str(tmp_path / name)) for name in ("one", "two")]
    for text in (run_report.report_run(facts[0], tmp_path), run_report.report_runs(facts, tmp_path)):
        assert "hf-471" not in text
    assert "cluster.env.HF_TOKEN" in run_report.report_run(facts[0], tmp_path)
