"""Editors know what the compiler knows."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from launcher.recipe.compile import recipe_schema
from launcher.yaml_text import parse_yaml

ROOT = Path(__file__).parents[3]
MODELINE = "# yaml-language-server: $schema=../docs/recipe.schema.json"


def test_committed_schema_is_current() -> None:
    committed = json.loads((ROOT / "docs" / "recipe.schema.json").read_text())
    assert committed == recipe_schema(), "run `launch schema > docs/recipe.schema.json`"


def test_fields_carry_their_docstrings() -> None:
    train = recipe_schema()["$defs"]["TrainConfig"]["properties"]
    assert train["steps"]["description"] == "Optimizer steps."


def keys(schema: object, path: str = "") -> Iterator[tuple[str, Mapping[str, object]]]:
    """Every key that a section may have."""
    if isinstance(schema, Mapping):
        for name, inside in schema.get("properties", {}).items() if "if" not in schema else ():
            if not set(inside) <= {"const", "enum"}:  # the choice among variants, each of which describes it
                yield f"{path}.{name}", inside
        for name, inside in schema.items():
            yield from keys(inside, f"{path}.{name}")
    elif isinstance(schema, list):
        for inside in schema:
            yield from keys(inside, path)


def test_every_key_is_described() -> None:
    found = dict(keys(recipe_schema()))
    assert len(found) > 300
    assert not [path for path, inside in found.items() if not inside.get("description")]


def as_yaml_11(path: Path) -> Any:
    """As editors of Python's world read it: 4e-3, without a dot, is text."""
    return yaml.safe_load(path.read_text())


RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
CHECKED = Draft202012Validator(recipe_schema())


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(recipe_schema())
    assert recipe_schema()["$id"].endswith("recipe.schema.json")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_valid_for_readers_of_yaml_11_and_12(path: Path) -> None:
    for data in (as_yaml_11(path), parse_yaml(path.read_text(), str(path))):
        assert not [error.message for error in CHECKED.iter_errors(data)]


def test_the_tool_of_the_field_takes_all_recipes() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--schemafile", "docs/recipe.schema.json"]
    done = subprocess.run([*command, *map(str, RECIPES)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("section", "wrong", "place"),
    [
        ("optim", {"lrr": 1e-3}, "$.optim"),
        ("optim", {"lr": "fast"}, "$.optim.lr"),
        ("model", {"d_model": -1}, "$.model.d_model"),
        ("model", {"s4": {"d_stat": 64}}, "$.model.s4"),
        ("data", {"source": {"type": "tokens", "trian": "x"}}, "$.data.source"),
        ("schedule", {"type": "cosin"}, "$.schedule.type"),
        ("parallel", {"shard_size": 0}, "$.parallel.shard_size"),
    ],
)
def test_an_editor_marks_the_wrong_key_and_not_the_whole_section(
    section: str, wrong: dict[str, Any], place: str
) -> None:
    data = as_yaml_11(ROOT / "recipes" / "s4-lm-1b.yaml")
    data[section] |= wrong
    found = [error.json_path for error in CHECKED.iter_errors(data)]
    assert set(found) == {place}, found


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
