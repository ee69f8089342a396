"""Language model: token embedding, pre-norm residual layers, final norm, readout."""

import torch
from torch import nn

from models.config import LayerName, LMConfig
from models.facts import Multipliers, ParamFacts, Role, prefixed
from models.inits import constant, normal, normal_fan_in
from models.layers import Embedding, Linear, build_norm, norm_facts
from models.mixers import LAYERS


class Residual(nn.Module):
    """x + dropout(mixer(norm(x))). The mixer's attribute is its kind, so names read `layers.3.s4d.ssm.C`."""

    def __init__(self, config: LMConfig, kind: LayerName) -> None:
        super().__init__()
        self.kind = kind
        self.dropout = config.dropout
        self.norm = build_norm(config.norm, config.d_model)
        self.add_module(kind, LAYERS[kind].build(config))

    def forward(self, x_BLH: torch.Tensor) -> torch.Tensor:
        branch_BLH = getattr(self, self.kind)(self.norm(x_BLH))
        return x_BLH + nn.functional.dropout(branch_BLH, self.dropout, self.training)


class LM(nn.Module):
    """tokens (B, L) int64 -> logits (B, L, V) float32; a position sees itself and what precedes it."""

    def __init__(self, config: LMConfig, multipliers: Multipliers) -> None:
        super().__init__()
        self.readout_multiplier = multipliers.readout
        self.embedding = Embedding(config.vocab_size, config.d_model)
        self.layers = nn.ModuleList(Residual(config, kind) for kind in layer_kinds(config))
        self.norm = build_norm(config.norm, config.d_model)
        self.readout = Linear(config.d_model, config.vocab_size, bias=False)

    def forward(self, tokens_BL: torch.Tensor) -> torch.Tensor:
        x_BLH = self.embedding(tokens_BL)
        for layer in self.layers:
            x_BLH = layer(x_BLH)
        return self.readout(self.norm(x_BLH) * self.readout_multiplier).float()


def layer_kinds(config: LMConfig) -> list[LayerName]:
    """The kind of every layer, first to last."""
    return list(config.pattern) * (config.num_layers // len(config.pattern))


def lm_facts(config: LMConfig) -> dict[str, ParamFacts]:
    """Facts by name pattern, one pattern for the same parameter of all layers."""
    readout_init = constant(0.0) if config.readout_zero_init else normal_fan_in
    facts = {"embedding.weight": ParamFacts(role=Role.EMBEDDING, init=normal(1.0), decay=False)}
    facts |= norm_facts(config.norm, "layers.*.norm")
    for kind in dict.fromkeys(config.pattern):
        facts |= prefixed(f"layers.*.{kind}.", LAYERS[kind].facts(config))
    facts |= norm_facts(config.norm, "norm")
    return facts | {"readout.weight": ParamFacts(role=Role.READOUT, init=readout_init, decay=True)}


def lm_flops_per_token(config: LMConfig, seq_len: int) -> float:
    """Forward FLOPs per token: the layers' own formulas and two per weight of the readout."""
    layers = sum(LAYERS[kind].flops(config, seq_len) for kind in layer_kinds(config))
    return layers + 2.0 * config.d_model * config.vocab_size
