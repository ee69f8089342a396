"""Position-wise two-layer network with GELU (arXiv 1706.03762, section 3.3)."""

from typing import final

import torch
from torch import nn

from models.config import FFNConfig
from models.documents import Documents
from models.facts import ParamFacts
from models.footprint import REAL, Footprint, Pass
from models.layers import Dropout, Linear, linear_facts
from models.mixer import Mixer, State


@final
class FFN(Mixer):
    """Mixes channels only; its state is empty."""

    def __init__(self, config: FFNConfig, d_model: int, dropout: Dropout, multiplier: float = 1.0) -> None:
        super().__init__()
        self.multiplier = multiplier
        self.up = Linear(d_model, config.expand * d_model)
        self.dropout = dropout
        self.down = Linear(config.expand * d_model, d_model)

    def forward(
        self, x_BLH: torch.Tensor, mask_BL: torch.Tensor | None = None, documents: Documents | None = None
    ) -> torch.Tensor:
        x_BLF = self.up(x_BLH)
        if self.multiplier == 1.0:  # spare two passes over the widest activations
            x_BLF = nn.functional.gelu(x_BLF)
        else:
            x_BLF = nn.functional.gelu(self.multiplier * x_BLF) / self.multiplier
        return self.down(self.dropout(x_BLF))

    def initial_state(self, batch_size: int, device: torch.device) -> State:
        return ()

    def advance(self, x_BLH: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        return self(x_BLH), state


def ffn_facts() -> dict[str, ParamFacts]:
    """Facts by name."""
    return linear_facts("up") | linear_facts("down")


def ffn_flops(config: FFNConfig, d_model: int) -> float:
    """Forward FLOPs per token: two per weight (arXiv 2001.08361, table 1)."""
    return 4.0 * config.expand * d_model**2


def ffn_footprint(config: FFNConfig, d_model: int, step: Pass, *, dropout: bool) -> Footprint:
    """The input, and what goes into gelu and comes out; backward, the gradient of the latter."""
    width, wide = (
        step.product * step.positions * d_model,
        step.product * step.positions * config.expand * d_model,
    )
    saved = width + (3 if dropout else 2) * wide + step.rounded(2.0 * config.expand * d_model**2)
    return Footprint(saved=saved, working=REAL * step.positions * d_model + step.half * width + wide)
