"""Editors know what the compiler knows."""

import json
from pathlib import Path

import pytest

from launcher.recipe.compile import recipe_schema

ROOT = Path(__file__).parents[3]
MODELINE = "# yaml-language-server: $schema=../docs/recipe.schema.json"


def test_committed_schema_is_current() -> None:
    committed = json.loads((ROOT / "docs" / "recipe.schema.json").read_text())
    assert committed == recipe_schema(), "run `launch schema > docs/recipe.schema.json`"


def test_fields_carry_their_docstrings() -> None:
    train = recipe_schema()["$defs"]["TrainConfig"]["properties"]
    assert train["steps"]["description"] == "Optimizer steps."


def test_whole_numbers_may_be_counts() -> None:
    number, count = recipe_schema()["$defs"]["TrainConfig"]["properties"]["steps"]["anyOf"]
    assert number == {"minimum": 1, "type": "integer"}
    assert count["type"] == "string"


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_shows_editors_its_schema(path: Path) -> None:
    assert path.read_text().startswith(MODELINE + "\n")
