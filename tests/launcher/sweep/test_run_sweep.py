"""A sweep in real worker processes: what is done is kept, what fails is reported and fails alone."""

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from launcher.cli.main import main
from launcher.recipe.compile import compile_recipe
from launcher.sweep.run_sweep import read_results
from launcher.sweep.worker import Task, run_tasks

SMALL = Path(__file__).parents[1] / "recipe" / "small.yaml"
FAST = [
    "train.steps=3",
    "schedule.warmup_steps=1",
    "train.global_batch_size=2",
    "train.micro_batch_size=2",
    "train.validation_sequences=0",
    "model.num_layers=1",
    "data.validation_fraction=0",
    "track.log_every=1",
    "track.mlflow.enabled=false",
]


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A sweep command; its corpus is one short file."""
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "a.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 20)
    monkeypatch.chdir(tmp_path)
    return [
        "sweep",
        str(SMALL),
        f"data.source.url={corpus}",
        *FAST,
        "--jobs",
        "1",
        "--out",
        str(tmp_path / "out"),
    ]


def losses(out: Path) -> dict[str, float | str]:
    return {point["name"]: point["loss"] for point in json.loads((out / "sweep.json").read_text())["points"]}


def test_a_sweep_continues_grows_and_reports_what_fails(
    sweep: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*sweep, "data.seq_len=16", "optim.lr=1e-3,1e-2"]) == 0
    first = losses(tmp_path / "out")
    assert set(first) == {"lr=1e-3", "lr=1e-2"}
    journal = tmp_path / "out" / "lr=1e-3" / "journal.jsonl"
    written = journal.stat().st_mtime_ns
    capsys.readouterr()

    # a third rate: a picture can be drawn, and the two others are not trained again
    assert main([*sweep, "data.seq_len=16", "optim.lr=1e-3,1e-2,1e-1"]) == 0
    shown = capsys.readouterr().out
    assert "3 points" in shown
    assert "2 of them done" in shown
    assert journal.stat().st_mtime_ns == written
    assert {**losses(tmp_path / "out"), **first} == losses(tmp_path / "out")
    assert (tmp_path / "out" / "transfer.png").exists()


@pytest.mark.parametrize(("infinite", "missing"), [("inf", "nan"), ("Infinity", "NaN")])
def test_results_are_read_in_the_present_spelling_and_that_of_older_sweeps(
    tmp_path: Path, infinite: str, missing: str
) -> None:
    result = {"name": "lr=1", "settings": {"optim.lr": "1"}, "series": "", "status": "diverged", "d_model": 8}
    result |= {"lr": 1.0, "seed": 0, "loss": infinite, "validation": False, "seconds": 1.5, "error": ""}
    result |= {"steps": [1, 2], "losses": [missing, infinite]}
    (tmp_path / "sweep.json").write_text(json.dumps({"points": [result]}))
    (read,) = read_results(tmp_path)
    assert (read.loss, read.steps, read.losses[1]) == (math.inf, (1, 2), math.inf)
    assert math.isnan(read.losses[0])


def test_a_failing_point_is_reported_and_the_others_are_trained(
    sweep: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*sweep, "data.seq_len=16,100000"]) == 1
    shown = capsys.readouterr().out
    assert "needs 100001 tokens" in shown
    assert shown.count("hint: ") == 1, "time scales fit the short sequences, not the long ones"
    assert "override 'data.seq_len=100000'" in shown
    assert "1 of 2 points have no result" in shown
    assert losses(tmp_path / "out")["seq_len=16"] != "NaN"


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadly(Task):
    """Kills the worker that receives it."""

    def __reduce__(self) -> tuple[object, ...]:
        return os._exit, (7,)


def test_a_worker_that_dies_takes_only_its_own_point_with_it(tmp_path: Path) -> None:
    deadly = Deadly(run_dir=tmp_path / "a", recipe="", mlflow=None)
    wrong = Task(run_dir=tmp_path / "b", recipe="version: 1", mlflow=None)
    errors = {task.run_dir.name: error for task, error in run_tasks([deadly, wrong], jobs=1, threads=1)}
    assert errors["a"] == "the process ended with exit code 7 and no message"
    assert "name" in errors["b"]  # a key that the recipe lacks


def test_a_folder_trained_from_another_recipe_is_refused(sweep: list[str], tmp_path: Path) -> None:
    point = tmp_path / "out" / "lr=1e-3"
    point.mkdir(parents=True)
    (point / "recipe.yaml").write_text("version: 1\n")
    assert main([*sweep, "data.seq_len=16", "optim.lr=1e-3"]) == 2


def test_points_are_shown_under_the_run_of_their_sweep(sweep: list[str], tmp_path: Path) -> None:
    from mlflow import MlflowClient

    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    words = [word for word in sweep if not word.startswith("track.mlflow")]
    words += ["data.seq_len=16", f"track.mlflow.tracking_uri={store}", "optim.lr=1e-3,1e-2,1e-1"]
    assert main(words) == 0
    assert main(words) == 0  # again: nothing is trained, and the same parent run is continued
    client = MlflowClient(store)
    runs = client.search_runs([client.get_experiment_by_name("mulaunch").experiment_id])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert sorted(run.data.params["optim.lr"] for run in children) == ["0.001", "0.01", "0.1"]
    assert parent.info.status == "FINISHED"
    assert parent.data.params["sweep"] == "small"
    assert "best_loss/32" in parent.data.metrics
    assert {file.path for file in client.list_artifacts(parent.info.run_id)} == {
        "sweep.json",
        "transfer.png",
        "values.png",
    }


def test_a_random_search_keeps_the_better_half_for_longer_and_gives_the_recipe(
    sweep: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word for word in sweep if not word.startswith(("train.steps", "schedule."))]
    words += ["data.seq_len=16", "optim.lr=1e-4..10", "mup.multipliers.output=0.5,1,2"]
    words += ["train.steps=40", "schedule.warmup_steps=4", "--random", "4", "--halving", "2"]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "rung 1 of 2: 20 steps each, 2.56e+03 tokens in all" in shown
    assert "rung 2 of 2: 40 steps each, 2.56e+03 tokens in all" in shown
    found = json.loads((tmp_path / "out" / "sweep.json").read_text())["points"]
    short, long = ([p for p in found if p["settings"]["train.steps"] == steps] for steps in ("20", "40"))
    assert (len(short), len(long)) == (4, 2)
    order = sorted(short, key=lambda point: float(point["loss"]))
    assert {p["settings"]["optim.lr"] for p in long} == {p["settings"]["optim.lr"] for p in order[:2]}
    assert main(words) == 0
    assert "4 of them done" in capsys.readouterr().out, "nothing is trained twice"
    assert main([*words, "--best"]) == 0
    recipe = compile_recipe(capsys.readouterr().out, "large.yaml").recipe
    best = min(long, key=lambda point: float(point["loss"]))
    assert recipe.optim.lr == float(best["settings"]["optim.lr"])
    assert recipe.mup.multipliers.output == float(best["settings"]["mup.multipliers.output"])
    assert recipe.provenance is not None
    assert set(recipe.provenance.values) == {"optim.lr", "mup.multipliers.output"}


def test_a_budget_in_tokens_is_divided_among_all_points(
    sweep: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*sweep, "data.seq_len=16", "optim.lr=1e-3,1e-2"]
    assert main([*words, "--tokens", "768"]) == 0
    assert "rung 1 of 1: 12 steps each, 768 tokens in all" in capsys.readouterr().out
    assert main([*words, "--tokens", "100"]) == 2
    assert "at least 10 are needed" in capsys.readouterr().err


def test_a_range_without_draws_is_refused(sweep: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*sweep, "optim.lr=1e-3..1e-2"]) == 2
    assert "optim.lr is a range, of which values are drawn" in capsys.readouterr().err
