"""Position-wise two-layer network with GELU (arXiv 1706.03762, section 3.3)."""

import torch
from torch import nn

from models.config import FFNConfig
from models.facts import ParamFacts
from models.layers import Linear, linear_facts


class FFN(nn.Module):
    """Mixer of channels only."""

    def __init__(self, config: FFNConfig, d_model: int) -> None:
        super().__init__()
        self.up = Linear(d_model, config.expand * d_model)
        self.down = Linear(config.expand * d_model, d_model)

    def forward(self, x_BLH: torch.Tensor) -> torch.Tensor:
        return self.down(nn.functional.gelu(self.up(x_BLH)))


def ffn_facts() -> dict[str, ParamFacts]:
    """Facts by name."""
    return linear_facts("up") | linear_facts("down")


def ffn_flops(config: FFNConfig, d_model: int) -> float:
    """Forward FLOPs per token: two per weight (arXiv 2001.08361, table 1)."""
    return 4.0 * config.expand * d_model**2
