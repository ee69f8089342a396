"""Every shipped recipe is complete: it loads, plans and renders."""

from pathlib import Path

import pytest

from launcher.plan.plan_text import plan_text
from launcher.recipe.compile import compile_recipe, dump_recipe, load_recipe
from launcher.submit import prepare

ROOT = Path(__file__).parents[1]
RECIPES = sorted(path.name for path in (ROOT / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_loads_plans_and_renders(name: str, tmp_path: Path) -> None:
    loaded = load_recipe(str(ROOT / "recipes" / name))
    assert loaded.recipe.name == name.removesuffix(".yaml")
    prepared = prepare(loaded.recipe, str(tmp_path / "run"), env={}, only_show=True)
    assert prepared.plan.parameters.num_parameters > 0
    assert sum(len(group.parameters) for group in prepared.plan.parameters.groups) == len(
        prepared.plan.parameters.shapes
    )
    assert "peak lr" in plan_text(prepared.recipe, prepared.plan)
    assert "launcher.cli.agent" in prepared.script


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_survives_being_frozen(name: str) -> None:
    recipe = load_recipe(str(ROOT / "recipes" / name)).recipe
    assert compile_recipe(dump_recipe(recipe), "recipe.yaml").recipe == recipe


def test_the_1b_recipe_has_a_billion_parameters() -> None:
    recipe = load_recipe(str(ROOT / "recipes/s4-lm-1b.yaml"), nodes=8).recipe
    plan = prepare(recipe, "/runs/x", env={}, only_show=True).plan
    assert 0.9e9 <= plan.parameters.num_parameters <= 1.1e9
    assert plan.batch.world_size == 64
