"""Model sections of a recipe. Torch-free, so that a recipe is checked on a login node."""

from typing import Annotated, Literal

from pydantic import Field

from models.section import Section

LayerName = Literal["s4d", "ffn"]


class S4DConfig(Section):
    """Diagonal state-space layer (S4D, arXiv 2206.11893)."""

    d_state: Annotated[int, Field(ge=2, multiple_of=2)] = 64
    """N real state dimensions: N/2 conjugate pairs are stored."""
    init: Literal["lin", "inv", "legs"] = "legs"
    dt_min: Annotated[float, Field(gt=0)] = 1e-3
    dt_max: Annotated[float, Field(gt=0)] = 1e-1
    """Step sizes are drawn log-uniformly from [dt_min, dt_max], one per channel."""
    final_act: Literal["glu", "gelu", "id"] = "glu"


class FFNConfig(Section):
    """Position-wise two-layer network."""

    expand: Annotated[int, Field(ge=1)] = 4
    """Hidden width as a multiple of d_model."""


class LMConfig(Section):
    """Language model: token embedding, pre-norm residual layers, readout."""

    type: Literal["lm"]
    vocab_size: Annotated[int, Field(ge=2)]
    d_model: Annotated[int, Field(ge=1)]
    num_layers: Annotated[int, Field(ge=1)]
    """Total residual layers; a multiple of the pattern's length."""
    pattern: Annotated[tuple[LayerName, ...], Field(min_length=1)] = ("s4d",)
    """Layer kinds, repeated over the depth."""
    s4d: S4DConfig = S4DConfig()
    ffn: FFNConfig = FFNConfig()
    norm: Literal["layer", "rms"] = "layer"
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    readout_zero_init: bool = True


ModelConfig = LMConfig


def with_width(config: LMConfig, d_model: int) -> LMConfig:
    """Return the same model at another width; every width-like dimension scales with d_model."""
    return config.model_copy(update={"d_model": d_model})
