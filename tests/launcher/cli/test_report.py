"""A page of a report is stored with the artifacts of its run, or it is said why not."""

from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.launch import assert_one_screen, launch
from tests.small_run import RECIPE, train_run

WORDS = (
    "small.yaml",
    "train.steps=6",
    "schedule.warmup_steps=1",
    "--run-dir",
    "run",
    "track.mlflow={report: true}",
)


def stored(folder: Path) -> list[Path]:
    return list(folder.glob("mlruns/**/artifacts/report/index.html"))


def test_a_finished_run_s_page_is_with_its_artifacts(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(RECIPE)
    done = launch(*WORDS, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    (page,) = stored(tmp_path)
    assert (page.parents[1] / "job.sh").read_text() == (tmp_path / "run/job.sh").read_text()
    text = page.read_text()
    assert text == (tmp_path / "run/report/index.html").read_text()
    assert "done" in text
    page.unlink()
    again = launch("report", "run", "--mlflow", folder=tmp_path)
    assert again.returncode == 0, again.stderr
    assert stored(tmp_path) == [page]
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("mulaunch")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    client.delete_run(run.info.run_id)
    gone = launch("report", "run", "--mlflow", folder=tmp_path)
    assert_one_screen(gone, "has no run", "any longer")
    assert not client.search_runs([experiment.experiment_id]), "none is made in its place"


@pytest.mark.parametrize(
    ("words", "message"),
    [(("one", "two"), "got 2 runs"), (("one",), "has not received this run")],
    ids=["of several", "never sent"],
)
def test_a_page_that_cannot_be_stored_is_refused(
    words: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    for name in words:
        train_run(tmp_path / "runs" / name)
    done = launch("report", *words, "--mlflow", folder=tmp_path)
    assert_one_screen(done, message)


@pytest.mark.parametrize(
    "words", [["runs/sweep"], ["runs/sweep/lr=1", "runs/sweep/lr=2", "runs/sweep/sweep.json"]]
)
def test_a_sweep_s_folder_means_its_points(words: list[str], tmp_path: Path) -> None:
    for name in ("lr=1", "lr=2"):
        train_run(tmp_path / "runs/sweep" / name, "train.steps=6", "schedule.warmup_steps=1")
    (tmp_path / "runs/sweep/sweep.json").write_text("{}")
    done = launch("report", *words, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "<h1>2 runs" in (tmp_path / "report/index.html").read_text()


def test_a_page_that_cannot_be_made_does_not_change_how_a_run_ended(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(RECIPE)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/report").write_text("a file where the folder should be")
    done = launch(*WORDS, folder=tmp_path)
    assert done.returncode == 2, "a folder that is not empty is not a new run's"
    (tmp_path / "run/report").unlink()
    (tmp_path / "run").rmdir()
    blocked = launch(*WORDS, "track.mlflow.tracking_uri=http://127.0.0.1:9", folder=tmp_path)
    assert blocked.returncode == 0, blocked.stderr
    assert "the report is not stored in MLflow" in blocked.stderr
