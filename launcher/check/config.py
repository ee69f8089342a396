"""Check section of a recipe. Torch-free."""

from models.section import Section


class CheckConfig(Section):
    """What a run requires before it may start."""

    gate: bool = False
    """Refuse to start this recipe until `launch check` has passed for its model, mup, optim and parallel."""
