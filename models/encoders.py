"""Input encoders: what turns a position of the input into a vector of d_model.

Letters: B batch, L positions, W characters of a word, F features of a signal, H d_model.
"""

import math
from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import nn

from models.config import CharCNNEncoder, ClassifierConfig, LinearEncoder, LMConfig
from models.facts import ParamFacts, Role, prefixed
from models.footprint import REAL, Pass
from models.inits import constant, normal
from models.layers import BIAS, Embedding, Linear, linear_facts


class CharCNN(nn.Module):
    """Characters (B, L, W) int64, 0 for none, to vectors (B, L, H): max over time of tanh convolutions.

    Kim et al. (arXiv 1508.06615, section 2.2), with a linear map after, or in the place of, highway layers.
    """

    def __init__(self, config: CharCNNEncoder, d_model: int) -> None:
        super().__init__()
        self.embedding = Embedding(config.num_chars, config.d_char)
        self.filters = nn.ModuleList(Filters(config.d_char, d_model, width) for width in config.widths)
        d_found = len(config.widths) * d_model
        self.highways = nn.ModuleList(Highway(d_found) for _ in range(config.highway_layers))
        self.output = Linear(d_found, d_model)

    def forward(self, chars_BLW: torch.Tensor) -> torch.Tensor:
        # B=2, L=5, W=16, d_char 15, d_model 64: X = 10 words, x (10, 16, 15); each width finds (10, 64, 16),
        # of which the maximum over W is (10, 64); six widths side by side are (10, 384) before the output.
        words = chars_BLW.flatten(0, -2)
        there = words > 0
        x_XWD = self.embedding(words) * there[..., None]
        # A convolution may start at each character, not at padding. Every word has a first position, even one
        # without characters, so that no maximum is over nothing. tanh is never below -1: the mask cannot win.
        starts = torch.cat((torch.ones_like(there[:, :1]), there[:, 1:]), dim=1)[:, None]
        found = [filters(x_XWD.transpose(1, 2)).masked_fill(~starts, -1).amax(-1) for filters in self.filters]
        x_XF = torch.cat(found, dim=-1)
        for highway in self.highways:
            x_XF = highway(x_XF)
        return self.output(x_XF).unflatten(0, chars_BLW.shape[:-1])


class Highway(nn.Module):
    """t relu(W x) + (1 - t) x with t = sigmoid(gate x), elementwise (arXiv 1505.00387, equation 3)."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.transform, self.gate = Linear(d_model, d_model), Linear(d_model, d_model)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        opened = torch.sigmoid(self.gate(x))
        return torch.lerp(x, torch.relu(self.transform(x)), opened)


class Filters(nn.Module):
    """tanh of a convolution of one width, from each character on."""

    def __init__(self, d_char: int, d_model: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(d_model, d_char, width))
        self.bias = nn.Parameter(torch.empty(d_model))

    def forward(self, x_XDW: torch.Tensor) -> torch.Tensor:
        padded = nn.functional.pad(x_XDW, (0, self.weight.shape[2] - 1))
        return torch.tanh(nn.functional.conv1d(padded, self.weight, self.bias))


def build_encoder(config: LMConfig | ClassifierConfig) -> nn.Module:
    """Build the encoder that the section names."""
    encoder = config.encoder
    if isinstance(encoder, LinearEncoder):
        return Linear(encoder.num_features, config.d_model)
    if isinstance(encoder, CharCNNEncoder):
        return CharCNN(encoder, config.d_model)
    assert config.vocab_size is not None, "the section demands a vocabulary for tokens"
    return Embedding(config.vocab_size, config.d_model)


def encoder_facts(
    config: LMConfig | ClassifierConfig, token_std: float, *, tied: bool
) -> dict[str, ParamFacts]:
    """Facts by name: input weights have a finite fan-in, so their initial values do not depend on width."""
    encoder = config.encoder
    if isinstance(encoder, LinearEncoder):
        weight = _input(1 / math.sqrt(encoder.num_features), decay=True)
        return {"weight": weight, "bias": BIAS}
    if isinstance(encoder, CharCNNEncoder):
        return {
            "embedding.weight": _input(1.0),
            **_filter_facts(encoder),
            **_highway_facts(encoder),
            **linear_facts("output"),
        }
    role = Role.TIED if tied else Role.EMBEDDING
    return {"weight": ParamFacts(role=role, init=normal(token_std), decay=False)}


def encoder_flops(config: LMConfig | ClassifierConfig) -> float:
    """Forward FLOPs per position: two per weight and use of it (arXiv 2001.08361, table 1)."""
    encoder = config.encoder
    if isinstance(encoder, LinearEncoder):
        return 2.0 * encoder.num_features * config.d_model
    if isinstance(encoder, CharCNNEncoder):
        taps = encoder.max_chars * sum(encoder.widths) * encoder.d_char
        d_found = len(encoder.widths) * config.d_model
        return 2.0 * config.d_model * taps + 2.0 * d_found * (
            config.d_model + encoder.highway_layers * 2 * d_found
        )
    return 0.0


def _input(std: float, *, decay: bool = False) -> ParamFacts:
    return ParamFacts(role=Role.EMBEDDING, init=normal(std), decay=decay)


def _highway_facts(encoder: CharCNNEncoder) -> dict[str, ParamFacts]:
    if encoder.highway_layers == 0:
        return {}
    gate = linear_facts("gate") | {"gate.bias": replace(BIAS, init=constant(encoder.gate_bias))}
    return prefixed("highways.*.", linear_facts("transform") | gate)


def _filter_facts(encoder: CharCNNEncoder) -> dict[str, ParamFacts]:
    widths: Iterable[tuple[int, int]] = enumerate(encoder.widths)
    return {
        name: fact
        for index, width in widths
        for name, fact in (
            (f"filters.{index}.weight", _input(1 / math.sqrt(encoder.d_char * width), decay=True)),
            (f"filters.{index}.bias", BIAS),
        )
    }


def encoder_saved(config: LMConfig | ClassifierConfig, step: Pass) -> float:
    """Bytes kept for the backward pass: ids; of characters, what every filter finds and where."""
    encoder = config.encoder
    if isinstance(encoder, LinearEncoder):
        return float(step.product * step.positions * encoder.num_features)
    if isinstance(encoder, CharCNNEncoder):
        # of a highway layer: its input, what both maps give, the gate and what it lets through
        per_value = encoder.max_chars * (REAL + 1) + 8 + step.product + 5 * REAL * encoder.highway_layers
        found = len(encoder.widths) * config.d_model * per_value
        return float(step.positions * (found + 2 * REAL * encoder.max_chars * encoder.d_char))
    return 8.0 * step.positions
