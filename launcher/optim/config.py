"""Optimizer section of a recipe: one section per `optim.type`. Torch-free."""

from typing import Annotated, Literal

from pydantic import Field

from models.section import MANY, Positive, Section, Steps, StepsOrZero

NonNegative = Annotated[float, Field(ge=0)]
Beta = Annotated[float, Field(ge=0, lt=1)]
Betas = Annotated[
    tuple[Beta, Beta], Field(description="Decay of the averages of the gradient and of its square.")
]
Eps = Annotated[float, Field(gt=0, description="Added to the denominator, at the base width.")]
Decay = Annotated[float, Field(ge=0, description="Weight decay, of matrices, at the base width.")]


class TensorRate(Section):
    """Peak learning rate of one kind of SSM tensor: `lr`, or global lr times `lr_mult`; at most `lr_cap`."""

    lr: Positive | None = None
    """Peak rate; null is the global one times lr_mult."""
    lr_mult: Positive = 1.0
    """Factor on the global rate."""
    lr_cap: Positive | None = 1e-3
    """Largest peak rate; null for none."""
    weight_decay: NonNegative = 0.0
    """Decay of this tensor."""


class SSMRates(Section):
    """Rates of the state-space tensors. The schedule scales these peaks like those of every other group."""

    dt: TensorRate = TensorRate()
    A: TensorRate = TensorRate()
    B: TensorRate = TensorRate()
    P: TensorRate = TensorRate()
    C: TensorRate = TensorRate(lr_cap=None)
    D: TensorRate = TensorRate(lr_cap=None)

    def of(self, tensor: str) -> TensorRate:
        """The rate of one kind of tensor. Raises ValueError for an unknown kind."""
        table = {"dt": self.dt, "A": self.A, "B": self.B, "P": self.P, "C": self.C, "D": self.D}
        if tensor not in table:
            raise ValueError(f"facts name the SSM tensor {tensor!r}; optim.ssm has {', '.join(table)}")
        return table[tensor]


class RoleRates(Section):
    """Factors on the peak rate, by what a parameter is. State-space tensors have optim.ssm."""

    embedding: Positive = 1.0
    """Of what turns inputs into vectors; tied tables too."""
    matrix: Positive = 1.0
    """Of hidden matrices."""
    readout: Positive = 1.0
    """Of what turns vectors into logits."""
    vector: Positive = 1.0
    """Of biases, gains, and other vectors."""


class SharpnessConfig(Section):
    """ASAM (arXiv 2102.11600): take the gradient where the loss is worst nearby. Twice the work of a step."""

    rho: Positive = 0.5
    """How far that is, in units of the weights' own sizes."""
    eta: NonNegative = 0.01
    """Added to a weight's size, so that small ones move too."""


class OptimSection(Section):
    """What every optimizer has. lr, decay and eps are those of the base width."""

    lr: Positive
    """Peak learning rate at the base width."""
    grad_clip: Positive | None = 1.0
    """Global gradient norm above which gradients are scaled down; null for no clipping."""
    ssm: SSMRates = SSMRates()
    rates: RoleRates = RoleRates()
    sharpness: SharpnessConfig | None = None
    """Sharpness-aware steps; null for plain ones."""


class SGDConfig(OptimSection):
    """Stochastic gradient descent with momentum (torch.optim.SGD); decay is added to the gradient."""

    type: Literal["sgd"]
    momentum: Beta = 0.9
    """Share of the last update that is kept."""
    nesterov: bool = False
    """Look ahead along the momentum (Nesterov)."""
    weight_decay: Decay = 0.0


class AdamConfig(OptimSection):
    """Adam (arXiv 1412.6980) without decay; adamw has it."""

    type: Literal["adam"]
    betas: Betas = (0.9, 0.95)
    eps: Eps = 1e-8


class AdamWConfig(OptimSection):
    """Adam with decoupled decay (arXiv 1711.05101)."""

    type: Literal["adamw"]
    betas: Betas = (0.9, 0.95)
    eps: Eps = 1e-8
    weight_decay: Decay = 0.1


class AdagradConfig(OptimSection):
    """Adagrad (torch.optim.Adagrad), without decay."""

    type: Literal["adagrad"]
    eps: Eps = 1e-10


class SMORMS3Config(OptimSection):
    """SMORMS3 (Simon Funk, 2015): RMSprop that adapts its averaging time and limits the rate by the fraction
    of the gradient that is signal."""

    type: Literal["smorms3"]
    eps: Eps = 1e-16


class LionConfig(OptimSection):
    """Lion (arXiv 2302.06675): the sign of an interpolated momentum, with decoupled decay."""

    type: Literal["lion"]
    betas: Betas = (0.9, 0.99)
    """Of the step, and of the momentum that is kept."""
    weight_decay: Decay = 0.1


class OtherRates(Section):
    """AdamW for the parameters that are not hidden matrices, next to an optimizer that updates only those."""

    lr: Positive
    """Peak learning rate at the base width."""
    betas: Betas = (0.9, 0.95)
    eps: Eps = 1e-8
    weight_decay: Decay = 0.1


class MatrixSection(OptimSection):
    """What every optimizer of hidden matrices has. lr, decay and eps are those of the matrices."""

    others: OtherRates
    """For everything that is not a hidden matrix; its lr is also the global rate of optim.ssm."""


class MuonConfig(MatrixSection):
    """Muon (kellerjordan.github.io/posts/muon): orthogonalized momentum for matrices, AdamW for the rest."""

    type: Literal["muon"]
    momentum: Beta = 0.95
    """Share of the averaged gradient that is kept."""
    nesterov: bool = True
    """Look ahead along the momentum (Nesterov)."""
    scale: Literal["spectral", "rms"] = "spectral"
    """Size of an update: spectral norm sqrt(fan_out/fan_in), or entries of RMS 0.2 like AdamW's (arXiv
    2502.16982)."""
    ns_steps: Annotated[int, Field(ge=1, le=20)] = 5
    """Newton-Schulz steps."""
    weight_decay: Decay = 0.1


class ShampooConfig(MatrixSection):
    """Shampoo (arXiv 1802.09568) with averages for hidden matrices, AdamW for the rest; rates as in Muon."""

    type: Literal["shampoo"]
    betas: Betas = (0.9, 0.95)
    """Of the momentum, and of the averages of G G^T and G^T G."""
    eps: Eps = 1e-12
    """Added to the eigenvalues of those averages."""
    precondition_every: Steps = 10
    """Steps between eigendecompositions."""
    weight_decay: Decay = 0.1


class SOAPConfig(MatrixSection):
    """SOAP (arXiv 2409.11321): Adam in Shampoo's eigenbasis for hidden matrices, AdamW for the rest."""

    type: Literal["soap"]
    betas: Betas = (0.95, 0.95)
    """Of Adam's averages in the eigenbasis; the second also of the basis."""
    eps: Eps = 1e-8
    sides: Literal["both", "left"] = "both"
    """Project both sides of a matrix, or only that of fan_out."""
    precondition_every: Steps = 10
    """Steps between updates of the basis."""
    weight_decay: Decay = 0.1


OptimConfig = Annotated[
    SGDConfig
    | AdamConfig
    | AdamWConfig
    | AdagradConfig
    | SMORMS3Config
    | LionConfig
    | MuonConfig
    | ShampooConfig
    | SOAPConfig,
    Field(discriminator="type"),
]


class WarmupSection(Section):
    """What every schedule has: a linear warmup to the peak."""

    warmup_steps: StepsOrZero = 0
    """Optimizer steps from a rate of zero to the peak."""
    extend: Literal["rescale", "hold"] = "rescale"
    """When a resume makes the run longer: stretch the schedule over all steps, or keep its last rate."""


class CosineConfig(WarmupSection):
    """Half a cosine from the peak to min_lr_ratio at the last step."""

    type: Literal["cosine"]
    min_lr_ratio: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Multiplier reached at the last step."""


class LinearConfig(WarmupSection):
    """A straight line from the peak to min_lr_ratio at the last step."""

    type: Literal["linear"]
    min_lr_ratio: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Multiplier reached at the last step."""


class ConstantConfig(WarmupSection):
    """The peak, after warmup."""

    type: Literal["constant"]


class WSDConfig(WarmupSection):
    """Warmup, stable, decay (arXiv 2404.06395): the peak, then a straight line over the last decay_steps."""

    type: Literal["wsd"]
    decay_steps: Steps
    """Optimizer steps of the decay, the last of the run."""
    min_lr_ratio: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Multiplier reached at the last step."""


class SineRestartsConfig(WarmupSection):
    """sin(pi t / period), with t from 0 in each period: a cycle starts at zero and peaks in its middle."""

    type: Literal["sine_restarts"]
    period: Annotated[int, Field(ge=2, le=MANY)]
    """Steps per cycle; with a single step, the factor would always be 0."""


class PlateauConfig(WarmupSection):
    """The multiplier is scaled by `factor` after more than `patience` evaluations without a better loss."""

    type: Literal["plateau"]
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """What the multiplier is multiplied by."""
    patience: StepsOrZero = 2
    """Evaluations without a better loss that are accepted."""
    threshold: Annotated[float, Field(ge=0)] = 1e-4
    """A loss is better when it is below best x (1 - threshold)."""
    min_lr_ratio: Annotated[float, Field(ge=0, le=1)] = 0.0
    """The multiplier goes no lower."""


ScheduleConfig = Annotated[
    CosineConfig | LinearConfig | ConstantConfig | WSDConfig | SineRestartsConfig | PlateauConfig,
    Field(discriminator="type"),
]
