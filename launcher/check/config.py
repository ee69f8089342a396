"""Check and provenance sections of a recipe. Torch-free."""

from typing import Annotated

from pydantic import Field

from models.section import MANY, Count, Section, Steps


class CheckConfig(Section):
    """What a run requires before it may start."""

    gate: bool = False
    """Refuse to start this recipe until `launch check` has passed for its model, mup, optim and parallel."""
    tuned: bool = False
    """Refuse this recipe unless `provenance` says where its values were tuned, and they are still those."""


class Provenance(Section):
    """Where values were tuned: written by `launch sweep --best`."""

    sweep: str
    """Folder of the sweep."""
    values: dict[str, float | Annotated[int, Field(ge=-MANY, le=MANY)] | str | bool | None]
    """Keys that it has compared, and the best value of each."""
    d_model: Count
    """Width at which they were the best: the largest that was tried."""
    steps: Steps
    """Of each point, in optimizer steps."""
    points: Count
    """How many were compared at that width."""
    seeds: Count
    """Over which the loss is a mean."""
    loss: float
    """Of the best point; of validation data where there are any."""
    optimum_log2_lr: float | None = None
    """Vertex of the loss over log2 of the rate, mean over seeds; null where rates were not compared."""
    optimum_half_width: Annotated[float, Field(ge=0)] | None = None
    """Half of its 95 % confidence interval over seeds, in octaves; null for one seed."""
    check: str | None = None
    """Identity of a passed `launch check` of this recipe; null where none is recorded."""
