"""Mistakes that come from habit: each is told what to write here, at its place."""

import pytest

from launcher.errors import UserError
from launcher.recipe.compile import compile_recipe
from launcher.recipe.habits import IN_SECTION, KEYS
from launcher.recipe.schema import Recipe
from launcher.recipe.schema_walk import Shape
from tests.small_run import RECIPE


def told(override: str) -> str:
    with pytest.raises(UserError) as error:
        compile_recipe(RECIPE, "r.yaml", [override])
    return str(error.value)


@pytest.mark.parametrize(
    ("override", "remedy"),
    [
        ("optim.lr=0,004", "write 0.004 with a decimal point"),
        ("optim.lr=1,5e-3", "write 1.5e-3 with a decimal point"),
        ("optim.lr=1,500", "write 1500 without commas, or 1.500 with a decimal point"),
        ("train.steps=1,500", "write 1500 without commas"),
        ("train.steps=12,345,678", "write 12345678 without commas"),
        ("optim.lr=1e-3,2e-3", "several values are a grid: launch sweep"),
        ("optim.lr=1e\N{EN DASH}3", "write 1e-3: it has an en dash (U+2013) in it"),
        ("optim.lr=1e\N{MINUS SIGN}3", "write 1e-3: it has a minus sign (U+2212) in it"),
        ("train.steps=3\N{NO-BREAK SPACE}000", "write 3000: it has a no-break space (U+00A0) in it"),
        ("optim.grad_clip=None", "write null for none"),
        ("seed='${SEED}'", "a recipe has no variables"),
        ("parallel.precision=bfloat16", "did you mean bf16?"),
        ("data.validation_fraction=5%", "write 0.05"),
        ("optim.betas=0.9,0.99", "write [0.9, 0.99]"),
        ("learning_rate=1e-3", "here it is optim.lr"),
        ("epochs=3", "here it is train.steps: a run is counted in steps"),
        ("eval.every_steps=3", "here it is train.validate_every"),
        ("checkpoint.every_steps=5", "here it is checkpoint.every"),
    ],
)
def test_a_habit_is_told_what_to_write_here(override: str, remedy: str) -> None:
    assert remedy in told(override)


def test_no_remedy_for_a_number_is_another_number() -> None:
    """`0,004` was once told to be written as 0004: a thousand times too large, and accepted."""
    assert "0004" not in told("optim.lr=0,004")


@pytest.mark.parametrize("meant", sorted({*KEYS.values(), *IN_SECTION.values()}))
def test_every_key_that_is_named_exists(meant: str) -> None:
    known = {".".join(path) for path in Shape(Recipe.model_json_schema()).key_paths()}
    assert meant in known | {name for name in Recipe.model_fields}
