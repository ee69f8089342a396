"""A run can be planned and explained by what people call it; a recipe of that name comes first."""

from pathlib import Path

import pytest

from tests.launch import assert_one_screen, launch
from tests.small_run import RECIPE, make_run, small_recipe

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("named")
    make_run(found / "runs/one", small_recipe("model.d_model=24"))
    (found / "small.yaml").write_text(RECIPE)
    return found


@pytest.mark.parametrize("word", ["one", "latest", "runs/one", "runs/one/recipe.yaml"])
def test_a_run_is_planned_by_its_frozen_recipe(folder: Path, word: str) -> None:
    planned = launch("plan", word, folder=folder)
    assert planned.returncode == 0, planned.stderr
    assert "d_model 24" in launch("explain", word, folder=folder).stdout


def test_values_of_a_run_s_recipe_can_be_replaced(folder: Path) -> None:
    plain = launch("plan", "one", "--json", folder=folder)
    wide = launch("plan", "one", "model.d_model=48", "--json", folder=folder)
    assert plain.stdout != wide.stdout


def test_a_recipe_comes_first(folder: Path) -> None:
    (folder / "runs/small.yaml").mkdir(exist_ok=True)
    from_file = launch("plan", "small.yaml", "--json", folder=folder)
    assert from_file.returncode == 0
    assert from_file.stdout != launch("plan", "one", "--json", folder=folder).stdout


def test_what_is_neither_is_one_message(folder: Path) -> None:
    assert_one_screen(launch("plan", "two", folder=folder), "no such recipe")
    assert_one_screen(launch("plan", "runs", folder=folder), "is a folder, not a recipe")
