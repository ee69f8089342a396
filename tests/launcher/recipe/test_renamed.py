"""Keys that were renamed: refused with their new name in a recipe, read under it in an old run folder."""

from pathlib import Path

import pytest

from launcher.errors import UserError
from launcher.recipe.compile import compile_recipe, dump_recipe, load_frozen, read_frozen
from launcher.recipe.renamed import RENAMED
from launcher.recipe.schema import Recipe
from launcher.recipe.schema_walk import Shape
from launcher.yaml_text import dump_yaml, parse_yaml
from tests.launcher.recipe.small import SMALL, problems

SOURCES = {
    "tokens": ("data.source={type: tokens, train: x}",),
    "labelled": ("data.source={type: labelled, train: x, num_classes: 2, vocab_size: 256}",),
    "digits": ("data.source={type: digits}", "model.vocab_size=null"),
    "listops": ("data.source={type: listops, min_length: 4}",),
}
CLASSIFIER = (
    "model={type: classifier, num_classes: 10, vocab_size: 256, encoder: {type: token}, d_model: 32, "
    "num_layers: 2}"
)
VALUES = {"validation": "y", "validation_fraction": "0.25", "min_lr_ratio": "0.5"}
ROWS = pytest.mark.parametrize(
    ("section", "kind", "old", "new"), [(*row, new) for row, new in RENAMED.items()]
)


def setting(section: str, kind: str, key: str, new: str) -> tuple[str, ...]:
    """Overrides of small.yaml that write a value under a key."""
    return (*SOURCES.get(kind, ())[:1], f"{section}.{key}={VALUES.get(new, '8')}")


@ROWS
def test_a_renamed_key_is_known_and_the_old_one_is_not(section: str, kind: str, old: str, new: str) -> None:
    shape = Shape(Recipe.model_json_schema())
    schema = shape.root
    for key in section.split("."):
        schema = shape.deref(schema)["properties"][key]
    variants = shape.variants(schema)
    tables = [variants[kind]] if kind else list(variants.values()) or [shape.deref(schema)]
    assert any(new in table["properties"] for table in tables)
    assert not any(old in table["properties"] for table in tables)


@ROWS
def test_an_old_key_is_refused_with_its_new_name_where_it_stands(
    section: str, kind: str, old: str, new: str
) -> None:
    overrides = setting(section, kind, old, new)
    expected = f"unknown key {old!r} in {section}\n    it is now called {new!r}"
    assert problems(*overrides) == [f"override {overrides[-1]!r}: {expected}"]
    # The same in a file, as text that `launch` would have written with the old name.
    text = dump_yaml(_renamed_back(_plain(setting(section, kind, new, new)), section, old, new))
    (line,) = [number for number, line in enumerate(text.splitlines(), 1) if f"{old}:" in line]
    column = text.splitlines()[line - 1].index(f"{old}:") + 1
    with pytest.raises(UserError) as caught:
        compile_recipe(text, "old.yaml")
    assert [str(found) for found in caught.value.problems] == [f"old.yaml:{line}:{column}: {expected}"]


@ROWS
def test_an_old_run_folder_is_read_under_the_new_names(
    section: str, kind: str, old: str, new: str, tmp_path: Path
) -> None:
    overrides = SOURCES.get(kind, ()) if kind == "tokens" or not kind else (CLASSIFIER, *SOURCES[kind])
    if kind == "digits":
        overrides = (*overrides, "model.encoder={type: linear, num_features: 1}")
    recipe = compile_recipe(SMALL, "r", (*overrides, setting(section, "", new, new)[-1])).recipe
    text = dump_yaml(_renamed_back(parse_yaml(dump_recipe(recipe), "r"), section, old, new))
    assert f"{old}: " in text
    (tmp_path / "recipe.yaml").write_text(text)
    assert load_frozen(str(tmp_path / "recipe.yaml")).recipe == recipe
    assert read_frozen(text, "recipe.yaml").recipe == recipe


def _plain(overrides: tuple[str, ...]) -> dict[str, dict[str, object]]:
    """small.yaml with some values replaced, whether or not its model takes them."""
    recipe = parse_yaml(SMALL, "small.yaml")
    for override in overrides:
        name, _, text = override.partition("=")
        *path, key = name.split(".")
        section = recipe
        for part in path:
            section = section[part]
        section[key] = parse_yaml(text, "override")
    return recipe


def _renamed_back(
    recipe: dict[str, dict[str, object]], path: str, old: str, new: str
) -> dict[str, dict[str, object]]:
    section: dict[str, object] = recipe
    for part in path.split("."):
        section = section[part]
    section[old] = section.pop(new)
    return recipe
