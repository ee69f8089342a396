"""`launch replay`: what a tracking server missed of a run that is over, sent once."""

import fcntl
import json
import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from launcher import files
from launcher.cli.main import main
from launcher.cli.tracking import store_hints
from launcher.track.config import MLflowConfig
from launcher.track.journal import step_records
from launcher.track.mlflow import create_database
from tests.launch import assert_one_screen, launch, launch_rank
from tests.small_run import RECIPE, make_run, small_recipe, train_run

SHORT = ("train.steps=4", "checkpoint.every=2", "train.validation_sequences=0", "schedule.warmup_steps=1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run trained while its store was away, a run that was fed to none; an empty store: making one takes
    seconds."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "small.yaml").write_text(RECIPE)
    (folder / "late").write_text("a file where the folder of the store will be")
    store = ("track.mlflow.enabled=true", "track.mlflow.tracking_uri=sqlite:///late/mlflow.db")
    make_run(folder / "away", small_recipe(*SHORT, *store))
    done = launch_rank("away", folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder / "output.txt").write_text(done.stdout)
    train_run(folder / "off", *SHORT)
    create_database(folder / "empty.db")
    return folder


def stored(store: Path) -> list[Run]:
    client = MlflowClient(f"sqlite:///{store}")
    experiment = client.get_experiment_by_name("mulaunch")
    return list(client.search_runs([experiment.experiment_id])) if experiment else []


def points(store: Path, run: Run) -> list[tuple[str, int, float]]:
    client = MlflowClient(f"sqlite:///{store}")
    return [
        (key, metric.step, metric.value)
        for key in sorted(run.data.metrics)
        for metric in client.get_metric_history(run.info.run_id, key)
    ]


def test_a_store_that_was_away_gets_a_finished_run_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "  launch replay away" in (folder / "output.txt").read_text().splitlines()
    refused = launch("replay", "away", folder=folder)
    assert_one_screen(refused, "sqlite:///", "when it answers: launch replay away")
    (folder / "late").unlink()
    (folder / "late").mkdir()
    shutil.copy(folder / "empty.db", folder / "late/mlflow.db")
    monkeypatch.chdir(folder)
    found = []
    for _ in range(2):
        assert main(["replay", "away"]) == 0
        assert "all of away is in experiment 'mulaunch'" in capsys.readouterr().out
        (run,) = stored(folder / "late/mlflow.db")
        found.append((run.to_dictionary(), points(folder / "late/mlflow.db", run)))
    assert found[0] == found[1]
    assert run.info.status == "FINISHED"
    losses = [(step, value) for key, step, value in found[0][1] if key == "loss"]
    journal = step_records(folder / "away/journal.jsonl")
    assert losses == [(step, journal[step]["loss"]) for step in journal]
    artifacts = folder / "late/mlruns/mulaunch" / run.info.run_id / "artifacts"
    names = {"recipe.yaml", "plan.json", "base_shapes.bsh", "environment.json"}
    assert names <= {path.name for path in artifacts.iterdir()}
    assert [one.dataset.name for one in run.inputs.dataset_inputs] == ["python-stdlib"]


@pytest.fixture
def store(folder: Path, tmp_path: Path) -> Path:
    """An empty store of the test's own."""
    shutil.copy(folder / "empty.db", tmp_path / "mlflow.db")
    return tmp_path / "mlflow.db"


def test_a_run_that_was_fed_to_no_store_goes_to_the_default_one(
    folder: Path, store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(folder / "off", store.parent / "off")
    with open(store.parent / "off/journal.jsonl", "a") as journal:
        journal.write('{"event": "step", "ti')  # a machine that lost power
    monkeypatch.chdir(store.parent)
    for _ in range(2):
        assert main(["replay", "off"]) == 0
    assert f"in sqlite:///{store}" in capsys.readouterr().out
    (run,) = stored(store)
    assert [step for key, step, _ in points(store, run) if key == "loss"] == [1, 2, 3, 4]


def test_another_store_gets_it_all(
    folder: Path, store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(folder / "off", store.parent / "off")
    monkeypatch.chdir(store.parent)
    assert main(["replay", "off"]) == 0
    shutil.copy(folder / "empty.db", "other.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///other.db")
    assert main(["replay", "off"]) == 0
    assert "a new run at" in capsys.readouterr().out
    assert len(stored(store)) == len(stored(store.with_name("other.db"))) == 1


def test_a_remote_run_folder_learns_what_was_sent_and_keeps_its_journal(
    folder: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = f"memory://{store.parent.name}/run"
    for path in (folder / "off").iterdir():
        if path.is_file():
            files.write_bytes(files.join(remote, path.name), path.read_bytes())
    monkeypatch.chdir(store.parent)
    for _ in range(2):
        assert main(["replay", remote]) == 0
    assert len(stored(store)) == 1
    state = json.loads(files.read_text(files.join(remote, "mlflow.json")))
    assert state["offset"] == (folder / "off/journal.jsonl").stat().st_size
    assert (
        files.read_bytes(files.join(remote, "journal.jsonl")) == (folder / "off/journal.jsonl").read_bytes()
    )


def test_what_cannot_be_sent_is_one_message(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    make_run(folder / "new", small_recipe())
    for run, fragments in (
        ("nowhere", ("is neither a folder",)),
        ("new", ("has no journal yet", "launch resume new")),
    ):
        assert main(["replay", run]) == 2
        error = capsys.readouterr().err
        assert all(fragment in error for fragment in fragments), error


def test_a_run_that_is_being_trained_is_left_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    with open(folder / "off/lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert main(["replay", "off"]) == 2
    assert "is being trained by" in capsys.readouterr().err
    assert not (folder / "off/mlflow.json").exists()


def test_an_experiment_in_the_environment_is_named_as_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    (hint,) = store_hints(MLflowConfig())
    assert "does not count" in str(hint)
    assert "track.mlflow.experiment" in str(hint)
    assert not list(store_hints(MLflowConfig(experiment="mine")))
    assert not list(store_hints(MLflowConfig(enabled=False)))
