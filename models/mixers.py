"""The closed table of layer kinds: what a recipe's `pattern` may name."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from models.config import LayerName, LMConfig
from models.facts import ParamFacts
from models.ffn import FFN, ffn_facts, ffn_flops
from models.s4d import S4D, s4d_facts, s4d_flops


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerKind:
    """One kind of residual branch: how it is built, what its parameters are, what a token costs forward."""

    build: Callable[[LMConfig], nn.Module]
    facts: Callable[[LMConfig], dict[str, ParamFacts]]
    flops: Callable[[LMConfig, int], float]


LAYERS: dict[LayerName, LayerKind] = {
    "s4d": LayerKind(
        build=lambda config: S4D(config.s4d, config.d_model),
        facts=lambda config: s4d_facts(config.s4d),
        flops=lambda config, seq_len: s4d_flops(config.s4d, config.d_model, seq_len),
    ),
    "ffn": LayerKind(
        build=lambda config: FFN(config.ffn, config.d_model),
        facts=lambda config: ffn_facts(),
        flops=lambda config, seq_len: ffn_flops(config.ffn, config.d_model),
    ),
}
