"""Checkpoint section of a recipe. Torch-free."""

from models.section import Section, Steps


class CheckpointConfig(Section):
    """When to save, and how many checkpoints to keep. The last step is always saved."""

    every: Steps
    """Steps between checkpoints."""
    keep: Steps = 3
    """Number of checkpoints kept, the newest ones."""
