"""muP section of a recipe. Torch-free."""

from typing import Literal

from models.section import Count, Section

DecayPolicy = Literal["constant", "independent", "sqrt"]


class MupConfig(Section):
    """Parametrisation. `mup` scales from `base_width` or a base-shapes file; `sp` and `umup` need neither."""

    type: Literal["sp", "mup", "umup"]
    base_width: Count | None = None
    """d_model at which the recipe's rates were tuned: there mup equals sp bit for bit."""
    delta_width: Count | None = None
    """A second width, to see which dimensions grow; default 2 x base_width."""
    base_shapes: str | None = None
    """Base-shapes file to use instead of base_width."""
    weight_decay: DecayPolicy = "constant"
    """In width: lr x decay stays constant, decay itself does (independent), or decay grows as 1/sqrt(lr)."""
