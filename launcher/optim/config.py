"""Optimizer and schedule sections of a recipe. Torch-free."""

from typing import Annotated, Literal

from pydantic import Field

from models.section import Section

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]


class TensorRate(Section):
    """Peak learning rate of one kind of SSM tensor: `lr`, or the global lr times `lr_mult`; then at most `lr_cap`."""

    lr: Positive | None = None
    lr_mult: Positive = 1.0
    lr_cap: Positive | None = 1e-3
    weight_decay: NonNegative = 0.0


class SSMRates(Section):
    """Rates of the state-space tensors. The schedule multiplies these peaks like every other group's."""

    dt: TensorRate = TensorRate()
    A: TensorRate = TensorRate()
    B: TensorRate = TensorRate()
    C: TensorRate = TensorRate(lr_cap=None)
    D: TensorRate = TensorRate(lr_cap=None)


class AdamWConfig(Section):
    """AdamW; lr, decay and eps are those of the base width."""

    type: Literal["adamw"]
    lr: Positive
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.95)
    eps: Positive = 1e-8
    weight_decay: NonNegative = 0.1
    grad_clip: Positive | None = 1.0
    """Global gradient norm above which gradients are scaled down; null for no clipping."""
    ssm: SSMRates = SSMRates()


OptimConfig = AdamWConfig


class ScheduleConfig(Section):
    """Factor on every group's peak learning rate as a function of the step."""

    type: Literal["cosine", "linear", "constant"]
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    final_ratio: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Factor reached at the last step."""
