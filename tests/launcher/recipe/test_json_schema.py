"""Editors know what the compiler knows."""

import json
from collections.abc import Iterator, Mapping
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


def whole_numbers(schema: object, path: str = "") -> Iterator[tuple[str, Mapping[str, object]]]:
    """Every place of a schema where any whole number may stand."""
    if isinstance(schema, Mapping):
        if schema.get("type") == "integer" and not {"const", "enum"} & schema.keys():
            yield path, schema
        for key, inside in schema.items():
            yield from whole_numbers(inside, f"{path}.{key}")
    elif isinstance(schema, list):
        for inside in schema:
            yield from whole_numbers(inside, path)


def test_no_whole_number_is_without_a_largest_one() -> None:
    """One zero too many is an error of the recipe, not of the allocator."""
    found = dict(whole_numbers(recipe_schema()))
    assert len(found) > 60
    assert not [path for path, kind in found.items() if not {"maximum", "exclusiveMaximum"} & kind.keys()]


def test_whole_numbers_may_be_counts() -> None:
    number, count = recipe_schema()["$defs"]["TrainConfig"]["properties"]["steps"]["anyOf"]
    assert number == {"minimum": 1, "maximum": 2**53, "type": "integer"}
    assert count["type"] == "string"


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_shows_editors_its_schema(path: Path) -> None:
    assert path.read_text().startswith(MODELINE + "\n")
