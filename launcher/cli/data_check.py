"""What is looked at in a recipe's data before a run folder is written or a job is queued."""

from typing import TYPE_CHECKING

from launcher.data.source_table import check_sources
from launcher.recipe.schema import Recipe
from models.config import max_chars

if TYPE_CHECKING:
    from launcher.data.supply import Supply


def data_supply(recipe: Recipe) -> "list[Supply]":
    """How often the run reads each part of its data. Raises UserError where that is beyond a limit."""
    from launcher.data.supply import check_supplies, supplies  # numpy

    total = recipe.train.steps * recipe.train.global_batch_size
    found = supplies(recipe.data, total, recipe.model.vocab_size)
    check_supplies(found)
    return found


def check_data(recipe: Recipe) -> None:
    """Raise UserError for files that are missing, of another kind, too short, or unfit for the model."""
    check_sources(recipe.data)
    data_supply(recipe)
    from launcher.data.splits import check_data as check_content  # torch, after what needs none

    check_content(recipe.data, recipe.model.vocab_size, max_chars(recipe.model))
