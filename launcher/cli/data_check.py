"""What is looked at in a recipe's data before a run folder is written or a job is queued."""

from launcher.data.source_table import check_sources
from launcher.recipe.schema import Recipe
from models.config import max_chars


def check_data(recipe: Recipe) -> None:
    """Raise UserError for files that are missing, of another kind, too short, or unfit for the model."""
    check_sources(recipe.data)
    from launcher.data.splits import check_data as check_content  # torch, after what needs none

    check_content(recipe.data, recipe.model.vocab_size, max_chars(recipe.model))
