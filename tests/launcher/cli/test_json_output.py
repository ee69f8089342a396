"""--json prints the facts and nothing else on stdout, also while something is trained for them."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.launch import launch
from tests.small_run import RECIPE, train_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("json")
    (found / "small.yaml").write_text(RECIPE)
    train_run(found / "runs/one")
    shutil.copytree(found / "runs/one", found / "runs/two")
    (found / "runs/two/recipe.yaml").write_text("not a recipe")
    return found


def printed(folder: Path, *words: str) -> Any:
    done = launch(*words, "--json", folder=folder)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_run_s_status(folder: Path) -> None:
    found = printed(folder, "status", "one")
    assert (found["run"], found["step"], found["steps"], found["checkpoint"]) == ("runs/one", 20, 20, 20)
    assert found["best_validation"]["loss"] > 0
    assert found["time"]["goodput"] <= 1


def test_all_runs_also_those_that_cannot_be_read(folder: Path) -> None:
    one, two = printed(folder, "status")
    assert printed(folder, "ls") == [one, two]
    assert one["state"].startswith("done")
    assert two.keys() == {"run", "error"}


def test_recipes(folder: Path) -> None:
    rows = printed(folder, "recipes")
    assert {"s4d-lm-quickstart", "s4-lm-1b"} <= {row["recipe"] for row in rows}


def test_a_sweep_prints_its_results_and_nothing_else(folder: Path) -> None:
    words = ("small.yaml", "optim.lr=1e-3,2e-3", "train.steps=6", "--jobs", "1")
    points = printed(folder, "sweep", *words)["points"]
    assert [point["lr"] for point in points] == [1e-3, 2e-3]
    assert printed(folder, "sweep", *words, "--table")["points"] == points


def test_a_sweep_has_no_results_to_print_where_it_waits_for_none(folder: Path) -> None:
    words = ("sweep", "small.yaml", "optim.lr=1e-3,2e-3", "--best", "--json")
    done = launch(*words, folder=folder)
    assert done.returncode == 2
    assert "--best waits for none" in done.stdout


def test_mistakes_are_json_too(folder: Path) -> None:
    done = launch("status", "xyzzy", "--json", folder=folder)
    assert done.returncode == 2
    assert json.loads(done.stdout)["problems"][0]["place"] == "xyzzy"
