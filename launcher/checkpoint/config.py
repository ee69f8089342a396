"""Checkpoint section of a recipe. Torch-free."""

from typing import Annotated

from pydantic import Field

from models.section import Section


class CheckpointConfig(Section):
    """When to save, and how many checkpoints to keep. The last step is always saved."""

    every: Annotated[int, Field(ge=1)]
    """Steps between checkpoints."""
    keep: Annotated[int, Field(ge=1)] = 3
    """Number of checkpoints kept, the newest ones."""
