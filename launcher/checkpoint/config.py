"""Checkpoint section of a recipe. Torch-free."""

from typing import Annotated

from pydantic import Field

from models.section import Section, Steps


class CheckpointConfig(Section):
    """When to save, and how many checkpoints to keep. The last step is always saved."""

    every: Steps
    """Steps between checkpoints."""
    keep: Steps = 3
    """Number of checkpoints kept, the newest ones."""
    keep_every: Steps | None = None
    """Checkpoints of steps that are multiples of this are kept as well."""
    keep_best: bool = False
    """The checkpoint with the lowest validation loss, of those that were saved, is kept as well."""
    asynchronous: bool = True
    """Training waits for a copy in host memory only, and a thread writes it."""
    max_failures: Annotated[int, Field(ge=0, le=1_000_000)] = 3
    """Saves in a row that storage may refuse. One more ends the run; older checkpoints stay."""
