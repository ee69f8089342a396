"""State-space sections of a recipe. Torch-free."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from models.section import Count, Positive, Section

MOST_STATES = 4096
"""HiPPO's initial values are eigenvalues of a (d_state, d_state) matrix."""
PairedState = Annotated[int, Field(ge=2, le=MOST_STATES, multiple_of=2)]


class SSMSection(Section):
    """Abstract: what every state-space layer has."""

    n_ssm: Count | None = None
    """Independent copies of A and B, shared by groups of channels; divides d_model. null: one a channel."""
    channels: Count = 1
    """Kernels (and outputs) per input channel, with C and D of their own."""
    dt_min: Positive = 1e-3
    """Smallest initial step size; see dt_max."""
    dt_max: Positive = 1e-1
    """Step sizes are drawn log-uniformly from [dt_min, dt_max], one a channel; 1/dt is a length in steps."""
    bidirectional: bool = False
    """Add a second kernel that looks ahead: y[t] += sum_j k'[j] u[t + 1 + j]. Not for language models."""
    gate: bool = False
    """Multiply the activated output by silu(W x), as in GSS (arXiv 2206.13947)."""
    final_act: Literal["glu", "gelu", "id"] = "glu"
    """After the output matrix; glu doubles its width."""

    @property
    def num_kernels(self) -> int:
        """Kernels per input channel: twice `channels` where half of them look ahead."""
        return self.channels * (1 + self.bidirectional)

    @model_validator(mode="after")
    def _dt_range(self) -> Self:
        if self.dt_min > self.dt_max:
            raise ValueError(f"dt_min {self.dt_min} is above dt_max {self.dt_max}")
        return self


RealTransform = Literal["exp", "softplus", "relu", "sigmoid"]
"""How the decay rate -Re A is made of what is stored and trained, so that it stays positive."""


class S4DConfig(SSMSection):
    """Diagonal state-space layer (S4D, arXiv 2206.11893)."""

    d_state: PairedState = 64
    """N real state dimensions: N/2 conjugate pairs are stored."""
    init: Literal["lin", "inv", "legs", "real", "diag"] = "legs"
    """A's initial value; `diag` is `inv` for half of the copies and `lin` for the others."""
    disc: Literal["zoh", "bilinear"] = "zoh"
    """Zero-order hold, or bilinear."""
    real_transform: RealTransform = "exp"
    """-Re A of what is stored, a: e^a, ln(1 + e^a), relu(a) + 1e-4, or 1/(1 + e^-a), at most 1 (S4D, 2.3)."""

    @model_validator(mode="after")
    def _transform_reaches_init(self) -> Self:
        # the rates of `real` are 1, 2, 3, ...
        if self.real_transform == "sigmoid" and self.init == "real":
            raise ValueError(
                "real_transform sigmoid gives rates below 1, but init real starts at 1 and above"
            )
        return self


class S4Config(SSMSection):
    """Diagonal plus low rank state-space layer (S4, arXiv 2111.00396), P tied, bilinear, of any length."""

    d_state: PairedState = 64
    """N real state dimensions: N/2 conjugate pairs are stored."""
    init: Literal["legs", "fout", "legt", "hippo"] = "legs"
    """HiPPO measure of A and B; `hippo` is `legs` for half of the copies and `fout` for the others."""
    rank: Literal[1, 2] = 1
    """Rows of P; `legt` has two."""
    real_transform: RealTransform = "exp"
    """-Re A of what is stored; as in s4d."""

    @model_validator(mode="after")
    def _legt_has_rank_two(self) -> Self:
        if self.init == "legt" and self.rank != 2:
            raise ValueError(f"rank is {self.rank}, but init legt has rank 2")
        return self


class DSSConfig(SSMSection):
    """Diagonal state spaces (DSS, arXiv 2203.14343): complex modes without conjugates, B = 1."""

    d_state: Annotated[int, Field(ge=1, le=MOST_STATES)] = 64
    """N complex modes."""
    version: Literal["exp", "softmax"] = "exp"
    """softmax divides each mode by its sum over `max_length` steps, and lets modes grow."""
    max_length: Count | None = None
    """Steps of the softmax; the training length."""

    @model_validator(mode="after")
    def _softmax_has_a_length(self) -> Self:
        if (self.version == "softmax") != (self.max_length is not None):
            raise ValueError(
                f"version is {self.version} and max_length {self.max_length}; "
                "softmax needs max_length, the training length, and exp has none"
            )
        return self
