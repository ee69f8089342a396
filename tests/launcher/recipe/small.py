"""small.yaml beside this file, and what the compiler says of it under overrides."""

from pathlib import Path

from launcher.errors import UserError
from launcher.recipe.compile import compile_recipe

SMALL = Path(__file__).with_name("small.yaml").read_text()


def problems(*overrides: str) -> list[str]:
    """Each problem as text; none for a recipe that is taken."""
    try:
        compile_recipe(SMALL, "small.yaml", overrides)
    except UserError as error:
        return [str(problem) for problem in error.problems]
    return []
