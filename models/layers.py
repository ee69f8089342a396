"""Elementary layers. Constructors only allocate; values come from parameter facts."""

from collections.abc import Callable

import torch
from torch import nn

from models.facts import ParamFacts, Role
from models.inits import constant, normal_fan_in

Product = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]


class Linear(nn.Module):
    """y = x W^T + b, weight stored as (d_out, d_in)."""

    def __init__(self, d_in: int, d_out: int, *, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(d_out, d_in))
        self.bias = nn.Parameter(torch.empty(d_out)) if bias else None

    def forward(self, x: torch.Tensor, through: Product = nn.functional.linear) -> torch.Tensor:
        """(..., d_in) -> (..., d_out); or what another product of (x, weight, bias) makes of x."""
        # The product comes to the weights and not the weights to the product: FSDP (where each Linear is a
        # unit of its own) and ZeRO 3 have them gathered only during this call.
        return through(x, self.weight, self.bias)


class Embedding(nn.Module):
    """A row of the table per token: (...) int64 -> (..., d_model)."""

    def __init__(self, num_rows: int, d_model: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_rows, d_model))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return nn.functional.embedding(tokens, self.weight)


class LayerNorm(nn.Module):
    """Layer normalisation over the last dimension (..., d_model), gain and bias."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(d_model))
        self.bias = nn.Parameter(torch.empty(d_model))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.layer_norm(x, self.weight.shape, self.weight, self.bias)


class RMSNorm(nn.Module):
    """Root-mean-square normalisation over the last dimension (..., d_model), gain only (arXiv 1910.07467)."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(d_model))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.rms_norm(x, self.weight.shape, self.weight, eps=1e-5)


class BatchNorm(nn.Module):
    """Normalise each channel of (B, L, H) over the valid positions of the batch; in evaluation by averages.

    The averages are buffers of each process: valid after construction on a real device, else `reset_buffers`.
    """

    MOMENTUM = 0.1

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(d_model))
        self.bias = nn.Parameter(torch.empty(d_model))
        self.running_mean: torch.Tensor
        self.running_var: torch.Tensor
        self.register_buffer("running_mean", torch.zeros(d_model))
        self.register_buffer("running_var", torch.ones(d_model))

    def reset(self) -> None:
        """Forget the running averages."""
        self.running_mean.zero_()
        self.running_var.fill_(1.0)

    def forward(self, x: torch.Tensor, mask_BL: torch.Tensor | None = None) -> torch.Tensor:
        mean, var = self.running_mean, self.running_var
        if self.training:
            mean, var, count = self._moments(x.float(), mask_BL)
            # the average keeps the unbiased variance, as torch's does; the batch is normalised by its own
            with torch.no_grad():
                self.running_mean.lerp_(mean, self.MOMENTUM)
                self.running_var.lerp_(var * (count / (count - 1).clamp(min=1)), self.MOMENTUM)
        # one scale and one shift a channel, so that x itself never becomes float32
        scale = self.weight * torch.rsqrt(var + 1e-5)
        return x * scale.to(x.dtype) + (self.bias - mean * scale).to(x.dtype)

    def _moments(
        self, x: torch.Tensor, mask_BL: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Mean and biased variance (H) of each channel, and the number of positions ()."""
        flat = x.flatten(0, -2)
        valid = flat.new_ones(flat.shape[0], 1) if mask_BL is None else mask_BL.reshape(-1, 1).to(flat.dtype)
        count = valid.sum()
        mean = (flat * valid).sum(0) / count
        return mean, ((flat - mean).square() * valid).sum(0) / count, count


class NoNorm(nn.Module):
    """Leave everything as it is."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


GAIN = ParamFacts(role=Role.VECTOR, init=constant(1.0), decay=False)
BIAS = ParamFacts(role=Role.VECTOR, init=constant(0.0), decay=False)
MATRIX = ParamFacts(role=Role.MATRIX, init=normal_fan_in, decay=True)


def linear_facts(name: str) -> dict[str, ParamFacts]:
    """Facts of a width-to-width Linear with a bias."""
    return {f"{name}.weight": MATRIX, f"{name}.bias": BIAS}


def build_norm(kind: str, d_model: int) -> nn.Module:
    """Build the norm of that kind."""
    if kind == "none":
        return NoNorm()
    return {"layer": LayerNorm, "rms": RMSNorm, "batch": BatchNorm}[kind](d_model)


def norm_facts(kind: str, name: str) -> dict[str, ParamFacts]:
    """Facts of the norm of that kind."""
    if kind == "none":
        return {}
    return {f"{name}.weight": GAIN} | ({f"{name}.bias": BIAS} if kind in ("layer", "batch") else {})


class Dropout(nn.Module):
    """Zero a fraction of activations (B, L, H) in training; tied, one mask a sequence for all positions.

    Not nn.Dropout2d, whose meaning for three dimensions changed between versions (pytorch issue 77081).
    """

    def __init__(self, rate: float, *, tied: bool = False) -> None:
        super().__init__()
        self.rate, self.tied = rate, tied

    @property
    def acts(self) -> bool:
        """Whether it does anything at the moment."""
        return self.training and self.rate > 0

    def forward(self, x: torch.Tensor, length_dim: int = 1) -> torch.Tensor:
        if not self.acts:
            return x
        if not self.tied:
            return nn.functional.dropout(x, self.rate)
        # x (B, L, H) and a mask (B, 1, H); channels first it is (B, H, 1), hence length_dim
        shape = [1 if dim == length_dim else size for dim, size in enumerate(x.shape)]
        return x * nn.functional.dropout(x.new_ones(shape), self.rate)
