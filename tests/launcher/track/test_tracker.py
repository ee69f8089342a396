import io
import math
import threading
from pathlib import Path

import pytest

from launcher.checkpoint.catalog import Outcome
from launcher.errors import Problem, UserError
from launcher.track.journal import read_journal, step_records
from launcher.track.mlflow import MlflowTarget
from launcher.track.tracker import Tracker
from tests.launcher.track.gate import Gate
from tests.launcher.track.records import attempt_record, step_record, validation_record


def test_the_journal_and_the_console_hold_what_was_logged(tmp_path: Path) -> None:
    console = io.StringIO()
    tracker = Tracker(tmp_path, rank=0, attempt=1, total_steps=20, log_every=1, mlflow=None, stream=console)
    tracker.start(attempt_record())
    tracker.log_step(step_record(10, 0.1 + 0.2))
    tracker.log_validation(validation_record(10, {"guess": 0.125}))
    tracker.saves_ended([Outcome(step=10, url="/runs/tiny/checkpoints/step-0000000010", write_s=0.25)])
    tracker.event("skipped", {"step": 11, "reason": "non-finite"})
    assert tracker.close() is None
    lines = read_journal(tmp_path / "journal.jsonl")
    assert [line["event"] for line in lines] == [
        "start",
        "step",
        "validation",
        "checkpoint",
        "skipped",
        "ledger",
        "best_validation",
        "end",
    ]
    best = {"step": 10, "at_step": 10, "loss": 2.31, "accuracy": 0.412, "perplexity": math.exp(2.31)}
    assert lines[6].items() >= best.items()
    step = step_records(tmp_path / "journal.jsonl")[10]
    assert (step["loss"], step["lr"], step["grad_norm"]) == (0.1 + 0.2, 1e-3, 1.7)
    assert step["lr_group"] == {"matrix": 1e-3, "ssm dt": 5e-4}
    assert (lines[2]["loss"], lines[2]["accuracy"], lines[2]["baselines"]) == (2.31, 0.412, {"guess": 0.125})
    assert "memory_gb" not in step  # there is no device to ask
    assert lines[-1]["status"] == "FINISHED"
    printed = console.getvalue().splitlines()
    assert len(printed) == 3
    assert "\x1b" not in console.getvalue()


def test_the_end_has_the_whole_reason(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, rank=0, attempt=1, total_steps=20, log_every=1, mlflow=None, stream=None)
    tracker.start(attempt_record())
    tracker.close(UserError(Problem("a.yaml:1:2", "is wrong", "fix it"), Problem("b.txt", "is missing")))
    end = read_journal(tmp_path / "journal.jsonl")[-1]
    assert end["reason"] == "UserError: a.yaml:1:2: is wrong fix it b.txt: is missing"


def test_other_ranks_write_print_and_send_nothing(tmp_path: Path) -> None:
    console = io.StringIO()
    nowhere = MlflowTarget("http://127.0.0.1:9", "claims")
    before = threading.active_count()
    tracker = Tracker(
        tmp_path / "run", rank=1, attempt=1, total_steps=20, log_every=1, mlflow=nowhere, stream=console
    )
    tracker.start(attempt_record())
    tracker.log_step(step_record(10))
    tracker.log_validation(validation_record(10, {"guess": 0.125}))
    tracker.saves_ended([Outcome(step=10, url="/runs/tiny/checkpoints/step-0000000010", write_s=0.25)])
    tracker.event("skipped", {"step": 11})
    tracker.sync()
    tracker.say("hello")
    assert tracker.close() is None
    assert console.getvalue() == ""
    assert threading.active_count() == before
    assert not (tmp_path / "run").exists()


def test_a_hanging_server_holds_neither_a_step_nor_the_end(
    tmp_path: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(
        "MLFLOW_HTTP_REQUEST_TIMEOUT", "600"
    )  # so that the feed hangs for as long as the server
    gate.mode = "hang"
    tracker = Tracker(
        tmp_path,
        rank=0,
        attempt=1,
        total_steps=100,
        log_every=1,
        mlflow=MlflowTarget(gate.url, "claims"),
        stream=None,
    )
    tracker.start(attempt_record())
    assert gate.asked.wait(60), "the feed never asked the server"

    def train() -> None:
        for step in range(1, 101):
            tracker.log_step(step_record(step))
        tracker.saves_ended([Outcome(step=100, url="/runs/tiny/checkpoints/step-0000000100", write_s=0.25)])

    training = threading.Thread(target=train, daemon=True)
    training.start()
    training.join(60)  # a step that waited for the server would wait until it is released below
    assert not training.is_alive()
    assert not gate.released.is_set()
    status = tracker.close(KeyboardInterrupt(), drain_s=0.01)
    assert status is not None
    assert status.problem == "no answer within 0.01 s"
    assert not gate.released.is_set()
    journal = tmp_path / "journal.jsonl"
    assert status.pending_bytes == journal.stat().st_size
    assert sorted(step_records(journal)) == list(range(1, 101))
