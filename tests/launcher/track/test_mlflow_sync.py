import json
import math
import shutil
import sqlite3
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from launcher.progress import Progress
from launcher.track.journal import Journal
from launcher.track.mlflow import MlflowTarget
from launcher.track.mlflow_sync import MlflowSync, SyncStatus, replay, saved_tracking_uri
from launcher.track.tracker import Tracker
from tests.launcher.track.gate import Gate
from tests.launcher.track.records import attempt_record, step_record


def track(
    folder: Path,
    target: MlflowTarget,
    losses: Sequence[tuple[int, float]],
    *,
    attempt: int = 1,
    from_step: int = 0,
    lr: float = 1e-3,
    artifacts: tuple[str, ...] = (),
) -> SyncStatus:
    """One attempt that logs these losses by step."""
    tracker = Tracker(
        folder, rank=0, attempt=attempt, total_steps=100, log_every=1, mlflow=target, stream=None
    )
    tracker.start(attempt_record(lr=lr, artifacts=artifacts))
    tracker.read("code: 3 files", "ab" * 32, {"type": "files", "url": "s3://key:secret@bucket/code"})
    tracker.begin(Progress(from_step, from_step), None, [], 1e6)
    for step, loss in losses:
        tracker.log_step(step_record(step, loss))
    status = tracker.close()
    assert status is not None
    return status


def stored_runs(target: MlflowTarget) -> list[Run]:
    client = MlflowClient(target.tracking_uri)
    experiment = client.get_experiment_by_name(target.experiment)
    return list(client.search_runs([experiment.experiment_id])) if experiment else []


def stored_history(target: MlflowTarget, key: str) -> list[tuple[int, float]]:
    (run,) = stored_runs(target)
    history = MlflowClient(target.tracking_uri).get_metric_history(run.info.run_id, key)
    return sorted((metric.step, metric.value) for metric in history)


def forget_cursor(folder: Path) -> None:
    """The state after a crash between sending and saving the cursor."""
    state = json.loads((folder / "mlflow.json").read_text())
    (folder / "mlflow.json").write_text(json.dumps({**state, "offset": 0}))


def test_a_run_is_stored_with_metrics_params_tags_and_artifacts(
    tmp_path: Path, target: MlflowTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    run_folder = tmp_path / "run"
    run_folder.mkdir()
    (run_folder / "recipe.yaml").write_text("seed: 1\n")
    status = track(run_folder, target, [(10, 3.5), (20, 2.5)], artifacts=("recipe.yaml",))
    assert (status.problem, status.pending_bytes) == (None, 0)
    assert stored_history(target, "loss") == [(10, 3.5), (20, 2.5)]
    assert stored_history(target, "lr_group/ssm dt") == [(10, 5e-4), (20, 5e-4)]
    (run,) = stored_runs(target)
    assert run.info.run_id == status.run_id
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "tiny"
    assert run.data.params["optim.lr"] == "0.001"
    assert run.data.params["optim.betas"] == "[0.9, 0.95]"
    assert (run.data.tags["run_dir"], run.data.tags["world_size"]) == ("/runs/tiny", "2")
    assert (run.data.tags["parameters"], run.data.tags["host"]) == ("12", "node-1")
    measured = {"grad_norm", "grad_norm_clipped", "clip_coefficient", "clip_fraction", "tokens_per_s"}
    assert measured | {"step_time_s", "data_wait_s", "lr", "lr_group/matrix"} <= run.data.metrics.keys()
    stored = tmp_path / "mlruns" / "claims" / run.info.run_id / "artifacts" / "recipe.yaml"
    assert stored.read_text() == "seed: 1\n"
    assert not list(elsewhere.iterdir()), "nothing is left in the folder that the process happens to be in"


def test_a_resume_continues_the_same_mlflow_run(tmp_path: Path, target: MlflowTarget) -> None:
    first = track(tmp_path / "run", target, [(10, 3.5), (20, 2.5)])
    second = track(tmp_path / "run", target, [(30, 2.0)], attempt=2, from_step=20, lr=5e-4)
    assert second.run_id == first.run_id
    assert stored_history(target, "loss") == [(10, 3.5), (20, 2.5), (30, 2.0)]
    (run,) = stored_runs(target)
    assert (run.data.params["optim.lr"], run.data.params["resume_2.optim.lr"]) == ("0.001", "0.0005")
    assert "resume_2.seed" not in run.data.params
    assert run.data.tags["attempt"] == "2"
    (data,) = run.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest, data.dataset.source_type) == ("code", "ab" * 18, "files")
    assert "secret" not in data.dataset.source
    assert json.loads(data.dataset.profile) == {"description": "code: 3 files"}
    assert [(tag.key, tag.value) for tag in data.tags] == [("mlflow.data.context", "training")]


def test_steps_done_again_add_a_point_only_where_the_result_differs(
    tmp_path: Path, target: MlflowTarget
) -> None:
    track(tmp_path / "run", target, [(10, 3.5), (20, 2.5), (30, math.nan), (40, 2.0)])
    again = [(20, 2.5), (30, math.nan), (40, 1.5), (50, 1.25)]
    track(tmp_path / "run", target, again, attempt=2, from_step=10)
    losses = [(step, loss) for step, loss in stored_history(target, "loss") if step != 30]
    assert losses == [(10, 3.5), (20, 2.5), (40, 1.5), (40, 2.0), (50, 1.25)]
    assert [step for step, _ in stored_history(target, "tokens")] == [10, 20, 30, 40, 50]


def test_sending_all_again_changes_nothing(tmp_path: Path, target: MlflowTarget) -> None:
    losses = [(10, 3.5), (20, math.nan), (30, math.inf), (40, -math.inf), (50, 1 / 3)]
    track(tmp_path / "run", target, losses)
    before = MlflowClient(target.tracking_uri).get_run(stored_runs(target)[0].info.run_id).to_dictionary()
    history = stored_history(target, "loss")
    forget_cursor(tmp_path / "run")
    status = replay(tmp_path / "run", target, notify=pytest.fail)
    assert status.problem is None
    (run,) = stored_runs(target)
    assert run.to_dictionary() == before or math.isnan(run.data.metrics["loss"])
    assert repr(stored_history(target, "loss")) == repr(history)  # repr, since nan != nan
    assert len(history) == 5
    assert history[4] == (50, 1 / 3)


def test_a_dead_store_loses_nothing_and_the_next_attempt_sends_it(
    tmp_path: Path, empty_database: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    late = tmp_path / "late"
    late.write_text("a file where the store's folder will be")
    target = MlflowTarget(f"sqlite:///{late}/mlflow.db", "claims")
    status = track(tmp_path / "run", target, [(10, 3.5)])
    assert status.run_id is None
    assert status.problem is not None
    assert status.pending_bytes == (tmp_path / "run" / "journal.jsonl").stat().st_size
    late.unlink()
    late.mkdir()
    shutil.copy(empty_database, late / "mlflow.db")
    assert track(tmp_path / "run", target, [(20, 2.5)], attempt=2, from_step=10).problem is None
    assert stored_history(target, "loss") == [(10, 3.5), (20, 2.5)]
    assert capsys.readouterr().err == ""  # neither MLflow nor SQLAlchemy has a say on the console


def test_a_closed_port_is_told_once_and_all_can_be_sent_later(tmp_path: Path, gate: Gate) -> None:
    gate.close()
    notices: list[str] = []
    journal = tmp_path / "run" / "journal.jsonl"
    tracker = Tracker(
        journal.parent, rank=0, attempt=1, total_steps=100, log_every=1, mlflow=None, stream=None
    )
    tracker.start(attempt_record())
    feed = MlflowSync(journal, MlflowTarget(gate.url, "claims"), notify=notices.append)
    assert [feed.send_all(), feed.send_all()] == [False, False]
    (notice,) = notices
    assert gate.url in notice
    assert "training continues" in notice
    assert feed.status().pending_bytes == journal.stat().st_size
    tracker.close("FAILED")


@pytest.mark.parametrize(
    "answer", [(500, b"out of order"), (401, b"who are you?"), (200, b"<html>please log in</html>")]
)
def test_a_server_that_fails_for_a_while_gets_every_point_once(
    tmp_path: Path, gate: Gate, answer: tuple[int, bytes]
) -> None:
    target = MlflowTarget(gate.url, f"claims of {tmp_path}")
    notices: list[str] = []
    run_folder = tmp_path / "run"
    tracker = Tracker(run_folder, rank=0, attempt=1, total_steps=100, log_every=1, mlflow=None, stream=None)
    (run_folder / "plan.json").write_text("{}")
    tracker.start(attempt_record(artifacts=("plan.json",)))
    feed = MlflowSync(run_folder / "journal.jsonl", target, notify=notices.append)
    tracker.log_step(step_record(10, 3.5))
    assert feed.send_all()
    gate.mode = answer
    tracker.log_step(step_record(20, math.nan))
    assert not feed.send_all()
    tracker.log_step(step_record(30, 2.5))
    assert not feed.send_all()
    gate.mode = "pass"
    assert feed.send_all()
    assert [("training continues" in notice, "answers again" in notice) for notice in notices] == [
        (True, False),
        (False, True),
    ]
    assert repr(stored_history(target, "loss")) == "[(10, 3.5), (20, nan), (30, 2.5)]"
    tracker.close(KeyboardInterrupt())
    assert replay(run_folder, target, notify=notices.append).problem is None
    (run,) = stored_runs(target)
    assert run.info.status == "KILLED"
    assert [file.path for file in MlflowClient(gate.url).list_artifacts(run.info.run_id)] == ["plan.json"]


def test_a_run_created_without_our_learning_its_id_is_found_again(
    tmp_path: Path, target: MlflowTarget
) -> None:
    first = track(tmp_path / "run", target, [(10, 3.5)])
    path = tmp_path / "run" / "mlflow.json"
    path.write_text(
        json.dumps({**json.loads(path.read_text()), "run_id": None, "creating": True, "offset": 0})
    )
    assert replay(tmp_path / "run", target, notify=pytest.fail).run_id == first.run_id
    assert stored_history(target, "loss") == [(10, 3.5)]


def test_a_deleted_run_is_replaced_by_one_with_all(tmp_path: Path, target: MlflowTarget) -> None:
    first = track(tmp_path / "run", target, [(10, 3.5)])
    MlflowClient(target.tracking_uri).delete_run(first.run_id)
    second = track(tmp_path / "run", target, [(20, 2.5)], attempt=2, from_step=10)
    assert second.run_id != first.run_id
    assert stored_history(target, "loss") == [(10, 3.5), (20, 2.5)]


def test_another_store_gets_a_new_run_with_all(
    tmp_path: Path, target: MlflowTarget, empty_database: Path
) -> None:
    track(tmp_path / "run", target, [(10, 3.5)])
    shutil.copy(empty_database, tmp_path / "other.db")
    other = MlflowTarget(f"sqlite:///{tmp_path}/other.db", "claims")
    notices: list[str] = []
    assert replay(tmp_path / "run", other, notify=notices.append).problem is None
    assert stored_history(other, "loss") == [(10, 3.5)]
    assert target.tracking_uri in notices[0]
    assert saved_tracking_uri(tmp_path / "run") == other.tracking_uri


def test_lines_lost_to_power_after_they_were_sent_do_not_hide_new_ones(
    tmp_path: Path, target: MlflowTarget
) -> None:
    track(tmp_path / "run", target, [(10, 3.5), (20, 2.5)])
    journal = tmp_path / "run" / "journal.jsonl"
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:2]))  # start and step 10
    track(tmp_path / "run", target, [(30, 2.0)], attempt=2, from_step=20)
    assert stored_history(target, "loss") == [(10, 3.5), (20, 2.5), (30, 2.0)]


def test_many_lines_go_in_batches(tmp_path: Path, target: MlflowTarget) -> None:
    losses = [
        (step, float(step)) for step in range(1, 401)
    ]  # 13 points a step: more than MLflow takes at once
    assert track(tmp_path / "run", target, losses).problem is None
    assert stored_history(target, "loss") == losses


def test_no_secret_is_written_or_said(tmp_path: Path, gate: Gate) -> None:
    gate.mode = (500, b"out of order")
    uri = gate.url.replace("http://", "http://me:secret@")
    notices: list[str] = []
    tracker = Tracker(tmp_path, rank=0, attempt=1, total_steps=100, log_every=1, mlflow=None, stream=None)
    tracker.start(
        replace(attempt_record(), recipe={"track": {"uri": uri}}, run_dir="s3://me:secret@site/run")
    )
    feed = MlflowSync(tmp_path / "journal.jsonl", MlflowTarget(uri, "claims"), notify=notices.append)
    assert not feed.send_all()
    tracker.close("FAILED")
    written = [path.read_text() for path in tmp_path.iterdir()]
    assert len(written) == 2  # the journal and the feed's state
    assert "secret" not in " ".join([*written, *notices, repr(feed.status())])
    assert saved_tracking_uri(tmp_path) == gate.url.replace("http://", "http://***@")


class Follower:
    """A run that is being trained, line by line, with what its sync says."""

    def __init__(self, folder: Path, target: MlflowTarget) -> None:
        self.said: list[str] = []
        self._journal = Journal(folder / "journal.jsonl", 1)
        self._journal.write("start", asdict(attempt_record()))
        self.sync = MlflowSync(folder / "journal.jsonl", target, notify=self.said.append)

    def log(self, step: int) -> bool:
        """Log one more step, and send."""
        self._journal.write("step", step_record(step, 1.0 / step).as_fields())
        return self.sync.send_all()


def test_a_run_that_is_deleted_while_it_trains_is_sent_again_as_a_new_one(
    tmp_path: Path, target: MlflowTarget
) -> None:
    run = Follower(tmp_path, target)
    assert run.log(1)
    MlflowClient(target.tracking_uri).delete_run(run.sync.status().run_id)
    assert not run.log(2)
    assert run.log(3)
    assert "was deleted there" in run.said[1]
    assert stored_history(target, "loss") == [(1, 1.0), (2, 0.5), (3, 1 / 3)]


def test_an_experiment_that_is_deleted_while_it_trains_is_told_with_the_remedy_and_nothing_is_lost(
    tmp_path: Path, target: MlflowTarget
) -> None:
    run = Follower(tmp_path, target)
    assert run.log(1)
    client, experiment_id = MlflowClient(target.tracking_uri), run.sync.status().experiment_id
    client.delete_experiment(experiment_id)
    assert not run.log(2)
    assert not run.log(3)
    problem = run.sync.status().problem
    assert problem is not None
    assert f"restore --experiment-id {experiment_id}" in problem
    client.restore_experiment(experiment_id)
    assert run.log(4)
    assert stored_history(target, "loss") == [(1, 1.0), (2, 0.5), (3, 1 / 3), (4, 0.25)]
    assert len(run.said) == 2, "one line when it breaks, one when it works again"


def test_a_dead_server_is_named_with_the_cause(tmp_path: Path) -> None:
    run = Follower(tmp_path, MlflowTarget("http://127.0.0.1:9", "claims"))
    assert not run.log(1)
    assert "Connection refused" in run.said[0]
    assert "127.0.0.1" in run.said[0]


def test_a_store_that_cannot_be_written_says_one_line(
    tmp_path: Path, target: MlflowTarget, capfd: pytest.CaptureFixture[str]
) -> None:
    # A permission would not stop the superuser.
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute(
            "create trigger refuse before insert on runs begin select raise(abort, 'read-only'); end"
        )
    run = Follower(tmp_path, target)
    assert not run.log(1)
    assert not run.log(2)
    assert len(run.said) == 1
    assert "read-only" in run.said[0]
    captured = capfd.readouterr()
    assert len((captured.out + captured.err).splitlines()) <= 3


def test_the_end_of_a_run_says_for_whom_it_waits(tmp_path: Path, gate: Gate) -> None:
    gate.mode = "hang"
    run = Follower(tmp_path, MlflowTarget(gate.url, "claims"))
    run.sync.start()
    gate.asked.wait(30)
    status = run.sync.close(2.2)
    assert status.problem == "no answer within 2.2 s"
    assert any(f"waiting up to 2.2 s for {gate.url}" in line for line in run.said)
