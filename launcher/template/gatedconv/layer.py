"""y = output(conv(x) * silu(gate(x))), where conv has a few taps of its own for each channel.

Letters: B batch, L length, H channels, K taps.
"""

import torch
from torch import nn

from gatedconv import GatedConvConfig
from models.added_layer import options_of
from models.config import BackboneSection
from models.documents import Documents
from models.facts import ParamFacts, Role
from models.footprint import REAL, Footprint, Pass
from models.inits import uniform
from models.layer_table import LayerKind
from models.layers import BIAS, Linear, linear_facts
from models.mixer import Mixer, State


class GatedConv(Mixer):
    """The state is the last K - 1 inputs."""

    def __init__(self, config: GatedConvConfig, d_model: int) -> None:
        super().__init__()
        self.d_model = d_model
        self.gate, self.output = Linear(d_model, d_model), Linear(d_model, d_model)
        self.taps = nn.Parameter(torch.empty(config.taps, d_model))
        self.shift = nn.Parameter(torch.empty(d_model))
        self.num_taps = config.taps

    def forward(
        self, x_BLH: torch.Tensor, mask_BL: torch.Tensor | None = None, documents: Documents | None = None
    ) -> torch.Tensor:
        return self.advance(x_BLH, self.initial_state(x_BLH.shape[0], x_BLH.device))[0]

    def initial_state(self, batch_size: int, device: torch.device) -> State:
        return (torch.zeros(batch_size, self.num_taps - 1, self.d_model, device=device),)

    def advance(self, x_BLH: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        (before,) = state
        long_BLH = torch.cat((before.to(x_BLH.dtype), x_BLH), dim=1)
        mixed_BLH = convolve(long_BLH, self.taps.to(x_BLH.dtype)) + self.shift.to(x_BLH.dtype)
        out_BLH = self.output(mixed_BLH * nn.functional.silu(self.gate(x_BLH)))
        return out_BLH, (long_BLH[:, x_BLH.shape[1] :],)


def convolve(x_BLH: torch.Tensor, taps_KH: torch.Tensor) -> torch.Tensor:
    """y[l] = sum_k taps[k] x[l + k]: K - 1 positions shorter than x."""
    num_channels = x_BLH.shape[2]
    weight_H1K = taps_KH.t()[:, None]
    return nn.functional.conv1d(x_BLH.transpose(1, 2), weight_H1K, groups=num_channels).transpose(1, 2)


def convolve_slowly(x_BLH: torch.Tensor, taps_KH: torch.Tensor) -> torch.Tensor:
    """The same, as it is written: the slow twin that tests compare with."""
    num_taps = taps_KH.shape[0]
    outputs = [
        sum(taps_KH[k] * x_BLH[:, position + k] for k in range(num_taps))
        for position in range(x_BLH.shape[1] - num_taps + 1)
    ]
    return torch.stack(outputs, dim=1)


def gatedconv_facts(config: GatedConvConfig) -> dict[str, ParamFacts]:
    """Facts by name. Taps have one dimension that grows with the width: they are like vectors to muP."""
    size = config.taps**-0.5
    taps = ParamFacts(role=Role.VECTOR, init=uniform(-size, size), decay=False)
    return {**linear_facts("gate"), **linear_facts("output"), "taps": taps, "shift": BIAS}


def gatedconv_flops(config: GatedConvConfig, d_model: int) -> float:
    """Forward FLOPs per token: two for each weight."""
    return 4.0 * d_model**2 + 2.0 * config.taps * d_model


def gatedconv_footprint(d_model: int, step: Pass) -> Footprint:
    """Input, longer input, both factors, silu and their product; the gradients of three of them."""
    width = REAL * float(step.positions * d_model)
    return Footprint(saved=6 * width + step.rounded(2.0 * d_model**2), working=3 * width)


def _options(config: BackboneSection) -> GatedConvConfig:
    return options_of(config, GatedConvConfig)


KIND = LayerKind(
    build=lambda c, m: GatedConv(_options(c), c.d_model),
    facts=lambda c: gatedconv_facts(_options(c)),
    flops=lambda c, seq_len: gatedconv_flops(_options(c), c.d_model),
    footprint=lambda c, step: gatedconv_footprint(c.d_model, step),
)
