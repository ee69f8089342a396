"""Typical slips of a hand: each is placed at its own line, with what to write."""

from pathlib import Path

import pytest

from launcher.errors import UserError
from launcher.recipe.compile import compile_recipe

SOURCE = (Path(__file__).parents[3] / "recipes/s4d-lm-quickstart.yaml").read_text()


def line_of(text: str) -> int:
    return SOURCE[: SOURCE.index(text)].count("\n") + 1


@pytest.mark.parametrize(
    ("written", "instead", "column", "told"),
    [
        ("  steps: 300", "  steps:300", 3, "write steps: 300"),
        ("  steps: 300", "  steps = 300", 3, "write steps: 300"),
        ("  steps: 300", "  steps=300", 3, "write steps: 300"),
        ("  steps: 300", "  steps:\N{NO-BREAK SPACE}300", 9, "a no-break space (U+00A0)"),
        ("  steps: 300", "\N{NO-BREAK SPACE}\N{NO-BREAK SPACE}steps: 300", 1, "a no-break space (U+00A0)"),
        ("  steps: 300", "steps: 300", 1, "indent it like the line after it, by 2 spaces"),
        ("  pattern: [s4d]", "  pattern: -s4d", 12, "write [s4d], or a space after each dash"),
        ("  grad_clip: 1.0", "  grad_clip:", 3, "write null for none, or remove the line"),
        ("  grad_clip: 1.0", "  grad_clip: None", 14, "write null for none"),
        ("  lr: 4e-3", "  lr: 0,004", 7, "write 0.004 with a decimal point"),
        ("  lr: 4e-3", "  lr: 4e\N{EN DASH}3", 7, "an en dash (U+2013)"),
        ("  d_model: 128", "  d_model: 128;", 12, "write 128, without the ';'"),
        ("  betas: [0.9, 0.95]", "  betas: (0.9, 0.95)", 10, "write [0.9, 0.95]"),
        ("  betas: [0.9, 0.95]", "  betas: 0.9, 0.95", 10, "write [0.9, 0.95]"),
        ("  weight_decay: 0.1", "  weight_decay: 10%", 17, "write 0.1"),
        ("  weight_decay: 0.1", "\tweight_decay: 0.1", 1, "indent with spaces"),
        ("seed: 1", "seed: ${SEED}", 7, "a recipe has no variables"),
    ],
)
def test_a_slip_is_placed_at_its_own_line(written: str, instead: str, column: int, told: str) -> None:
    with pytest.raises(UserError) as error:
        compile_recipe(SOURCE.replace(written, instead, 1), "r.yaml")
    (problem,) = error.value.problems
    assert problem.place == f"r.yaml:{line_of(written)}:{column}"
    assert told in f"{problem.message}\n{problem.remedy}"


def test_null_that_is_written_is_null() -> None:
    recipe = compile_recipe(SOURCE.replace("grad_clip: 1.0", "grad_clip: null"), "r.yaml").recipe
    assert recipe.optim.grad_clip is None


def test_a_recipe_of_one_line_is_sent_to_those_there_are() -> None:
    with pytest.raises(UserError, match="start from one that is there: `launch recipes` lists them"):
        compile_recipe("version: 1\n", "r.yaml")
