"""Elementary layers. Constructors only allocate; values come from parameter facts."""

import torch
from torch import nn

from models.facts import ParamFacts, Role
from models.inits import constant, normal_fan_in


class Linear(nn.Module):
    """y = x W^T + b, weight stored as (d_out, d_in)."""

    def __init__(self, d_in: int, d_out: int, *, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(d_out, d_in))
        self.bias = nn.Parameter(torch.empty(d_out)) if bias else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.weight, self.bias)


class Embedding(nn.Module):
    """A row of the table per token."""

    def __init__(self, num_rows: int, d_model: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_rows, d_model))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return nn.functional.embedding(tokens, self.weight)


class LayerNorm(nn.Module):
    """Layer normalisation over the last dimension, gain and bias."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(d_model))
        self.bias = nn.Parameter(torch.empty(d_model))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.layer_norm(x, self.weight.shape, self.weight, self.bias)


class RMSNorm(nn.Module):
    """Root-mean-square normalisation over the last dimension, gain only (arXiv 1910.07467)."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(d_model))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.rms_norm(x, self.weight.shape, self.weight, eps=1e-5)


GAIN = ParamFacts(role=Role.VECTOR, init=constant(1.0), decay=False)
BIAS = ParamFacts(role=Role.VECTOR, init=constant(0.0), decay=False)
MATRIX = ParamFacts(role=Role.MATRIX, init=normal_fan_in, decay=True)


def linear_facts(name: str) -> dict[str, ParamFacts]:
    """Facts of a width-to-width Linear with a bias."""
    return {f"{name}.weight": MATRIX, f"{name}.bias": BIAS}


def build_norm(kind: str, d_model: int) -> nn.Module:
    """Build the norm of that kind."""
    return {"layer": LayerNorm, "rms": RMSNorm}[kind](d_model)


def norm_facts(kind: str, name: str) -> dict[str, ParamFacts]:
    """Facts of the norm of that kind."""
    return {f"{name}.weight": GAIN} | ({f"{name}.bias": BIAS} if kind == "layer" else {})
