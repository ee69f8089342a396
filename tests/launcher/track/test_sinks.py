"""TensorBoard and Weights & Biases get every number of the journal, and no error of theirs reaches a run."""

import io
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from launcher.progress import Progress
from launcher.track.config import TrackConfig
from launcher.track.journal import read_records
from launcher.track.points import line_points
from launcher.track.sinks import JournalFollower, _label
from launcher.track.tracker import Tracker
from launcher.world import World
from tests.launcher.track.records import attempt_record, step_record, validation_record
from tests.ranks import run_ranks
from tests.wait import wait_for

CURVES = dict[tuple[str, int], float]


def attempt(folder: Path, number: int, track: TrackConfig, *, start: int, steps: range, loss: float) -> str:
    """What a training of some steps reports; returns what is printed."""
    printed = io.StringIO()
    folder.mkdir(exist_ok=True)
    tracker = Tracker(
        folder,
        rank=0,
        attempt=number,
        total_steps=40,
        log_every=10,
        mlflow=None,
        stream=printed,
        track=track,
    )
    tracker.start(attempt_record())
    with tracker:
        tracker.begin(Progress(step=start, data_step=start), None, [], 1e9)
        for step in steps:
            tracker.log_step(step_record(step, loss))
        tracker.log_validation(validation_record(steps[-1], {"majority": 0.1}))
    return printed.getvalue()


def in_journal(folder: Path) -> CURVES:
    """The last value of each curve at each step, without those of steps that were undone."""
    curves: CURVES = {}
    for line in read_records(folder / "journal.jsonl"):
        if "from_step" in line:
            curves = {at: value for at, value in curves.items() if at[1] <= line["from_step"]}
        curves |= {(point.key, point.step): point.value for point in line_points(line)}
    return curves


def in_tensorboard(folder: Path) -> CURVES:
    found = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    found.Reload()
    return {(key, event.step): event.value for key in found.Tags()["scalars"] for event in found.Scalars(key)}


def test_tensorboard_shows_what_the_journal_holds_after_a_step_back(tmp_path: Path) -> None:
    track, run = TrackConfig(tensorboard=str(tmp_path / "boards")), tmp_path / "run"
    attempt(run, 1, track, start=0, steps=range(10, 40, 10), loss=2.5)
    attempt(run, 2, track, start=10, steps=range(20, 30, 10), loss=2.0)
    expected = in_journal(run)
    assert in_tensorboard(tmp_path / "boards" / "tiny") == pytest.approx(expected, rel=1e-6)
    assert expected["loss", 20] == 2.0
    assert expected["lr_group/ssm dt", 10] == 5e-4


def log_records(data: bytes) -> Iterator[bytes]:
    """The records of an offline run's file: a log of LevelDB in blocks of 32 KiB, after a head of 7 bytes."""
    at, parts = 7, b""
    while at < len(data):
        if (left := 32768 - at % 32768) < 7:  # the rest of a block that has no room for a head
            at += left
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or its last part
            yield parts
            parts = b""


def in_wandb(folder: Path, attempts: int) -> tuple[list[tuple[str, int]], CURVES]:
    """(run, exit code) of each attempt, and all curves, once W&B's service has written the last of them."""
    wait_for(lambda: len(read_wandb(folder)[0]) == attempts, lambda: str(list(folder.glob("*"))))
    return read_wandb(folder)


def read_wandb(folder: Path) -> tuple[list[tuple[str, int]], CURVES]:
    from wandb.proto import wandb_internal_pb2 as messages

    codes: list[tuple[str, int]] = []
    curves: CURVES = {}
    for path in sorted(folder.glob("offline-run-*/*.wandb")):
        for data in log_records(path.read_bytes()):
            record: Any = messages.Record()
            record.ParseFromString(data)
            if record.WhichOneof("record_type") == "history":
                row = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
                step = int(row.pop("step"))
                curves |= {(key, step): float(value) for key, value in row.items() if not key.startswith("_")}
            if record.WhichOneof("record_type") == "exit":
                codes.append((path.stem, record.exit.exit_code))
    return codes, curves


def test_weights_and_biases_keeps_one_run_of_all_attempts_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    track, run = TrackConfig(wandb="mine"), tmp_path / "run"
    said = attempt(run, 1, track, start=0, steps=range(10, 40, 10), loss=2.5)
    time.sleep(1.1)  # its folders are named by the second
    said += attempt(run, 2, track, start=30, steps=range(40, 50, 10), loss=2.0)
    assert "wandb" not in said
    codes, curves = in_wandb(tmp_path / "wandb", attempts=2)
    assert len(set(codes)) == 1, "one run"
    assert codes[0][1] == 0
    assert curves == pytest.approx(in_journal(run))


def without_a_server(_world: World, folder: Path) -> str:
    """In a process of its own: the package reads its variables once."""
    os.environ |= {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "a" * 40}
    os.environ.pop("WANDB_MODE", None)
    os.chdir(folder)
    track = TrackConfig(wandb="mine")
    return attempt(folder / "run", 1, track, start=0, steps=range(10, 40, 10), loss=2.5)


@pytest.mark.slow
def test_weights_and_biases_whose_server_is_away_keeps_everything_for_later(tmp_path: Path) -> None:
    (said,) = run_ranks(1, without_a_server, tmp_path)
    assert said.count("wandb: ") == 1
    assert "it is kept in ./wandb" in said
    _, curves = in_wandb(tmp_path / "wandb", attempts=1)
    assert curves == pytest.approx(in_journal(tmp_path / "run"))


def test_points_of_two_sweeps_with_one_name_are_two_runs() -> None:
    found = [
        _label({"run_dir": f"/home/me/runs/{name}", "run_name": name.rpartition("/")[2]})
        for name in ("one/lr=1", "two/lr=1", "three")
    ]
    assert found == ["one/lr=1", "two/lr=1", "three"]
    assert _label({"run_dir": "/scratch/four", "run_name": "four"}) == "four"


def test_an_error_of_a_viewer_is_said_once_and_does_not_end_a_run(tmp_path: Path) -> None:
    (tmp_path / "boards").write_text("a file where the folder should be")
    said = attempt(
        tmp_path / "run",
        1,
        TrackConfig(tensorboard=str(tmp_path / "boards")),
        start=0,
        steps=range(10, 20, 10),
        loss=2.5,
    )
    assert said.count("tensorboard: ") == 1
    assert "gets nothing more of this attempt" in said
    assert ("loss", 10) in in_journal(tmp_path / "run")


def test_a_viewer_that_gives_no_answer_holds_up_the_end_only_as_long_as_is_said(tmp_path: Path) -> None:
    journal, said, free = tmp_path / "journal.jsonl", list[str](), threading.Event()
    journal.write_text("")

    def hang(line: object, notify: object) -> Any:
        free.wait()
        raise AssertionError("nobody waits for it any longer")

    follower = JournalFollower("viewer", journal, hang, notify=said.append)
    follower.start()
    journal.write_text('{"event": "start", "time": 1.0, "attempt": 1, "run_name": "tiny"}\n')
    follower.close(0.1)
    assert said == ["viewer: no answer within 0.1 s; it may lack the last steps"]
    free.set()
