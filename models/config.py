"""Model sections of a recipe. Torch-free, so that a recipe is checked on a login node."""

from typing import Annotated, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from models.section import Section

LayerName = Literal["s4d", "ffn"]


class S4DConfig(Section):
    """Diagonal state-space layer (S4D, arXiv 2206.11893)."""

    d_state: Annotated[int, Field(ge=2, multiple_of=2)] = 64
    """N real state dimensions: N/2 conjugate pairs are stored."""
    init: Literal["lin", "inv", "legs"] = "legs"
    n_ssm: Annotated[int, Field(ge=1)] | None = None
    """Independent copies of (A, B), shared by groups of channels; divides d_model. null: one per channel."""
    dt_min: Annotated[float, Field(gt=0)] = 1e-3
    dt_max: Annotated[float, Field(gt=0)] = 1e-1
    """Step sizes are drawn log-uniformly from [dt_min, dt_max], one per channel."""
    final_act: Literal["glu", "gelu", "id"] = "glu"

    @model_validator(mode="after")
    def _dt_range(self) -> Self:
        if self.dt_min > self.dt_max:
            raise ValueError(f"dt_min {self.dt_min} is above dt_max {self.dt_max}")
        return self


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

    @field_validator("pattern")
    @classmethod
    def _pattern_fits_depth(
        cls, pattern: tuple[LayerName, ...], info: ValidationInfo
    ) -> tuple[LayerName, ...]:
        depth = info.data.get("num_layers")
        if depth is not None and depth % len(pattern):
            raise ValueError(f"num_layers {depth} is not a multiple of the pattern's length {len(pattern)}")
        return pattern

    @field_validator("s4d")
    @classmethod
    def _copies_divide_width(cls, s4d: S4DConfig, info: ValidationInfo) -> S4DConfig:
        width = info.data.get("d_model")
        if width is not None and s4d.n_ssm is not None and width % s4d.n_ssm:
            raise ValueError(f"n_ssm {s4d.n_ssm} does not divide d_model {width}")
        return s4d


ModelConfig = LMConfig


def with_width(config: LMConfig, d_model: int) -> LMConfig:
    """Return the same model at another width; every width-like dimension scales with d_model."""
    return config.model_copy(update={"d_model": d_model})
