"""u-muP (arXiv 2407.17465): absolute rules for stacks of attention and feed-forward layers.

unit-scaling keeps weights at variance one and multiplies layers by constants. Here each constant is folded
into
its weight: multiplier a, initial value w and rate c become a w and a c, which is the same function and, for
updates
whose size does not follow the gradient's, the same training. Only formats narrower than bfloat16 can tell.
"""

import math
from collections.abc import Mapping
from fnmatch import fnmatchcase

from launcher.mup.config import DecayPolicy
from launcher.mup.rules import DECAY_POWER, Scaling
from models.config import AttentionConfig, BackboneSection
from models.facts import ParamFacts, Role

_SOURCE = "u-muP (arXiv 2407.17465), unit-scaling 0.3.5"


def scale_umup(
    name: str,
    shapes: Mapping[str, tuple[int, ...]],
    facts: Mapping[str, ParamFacts],
    *,
    gain: float,
    depth: float | None,
    decay: DecayPolicy,
) -> Scaling:
    """Factors of one parameter. `gain` is that of its layer's input; `depth` the pairs of layers of its
    stack, if any.

    Rates are those for updates of a size of their own: Adam and its kin, Lion.
    """
    role, shape = facts[name].role, shapes[name]
    stack = 1.0 if depth is None else depth**-0.5
    width = _layer_fan_in(name, shapes, facts)
    rule = "rate x 1"
    init, forward, lr = 1.0, 1.0, 1.0
    eps = 1.0 / max(shape)
    match role:
        case Role.MATRIX:
            # multiplier gain/sqrt(fan_in) on a unit weight of rate 1/sqrt(fan_in); the model draws
            # 1/sqrt(fan_in)
            init, lr = gain, gain / shape[1]
            rule = "multiplier and rate fan_in^-1/2 each, folded"
        case Role.READOUT:
            init, forward = math.sqrt(shape[1]), 1 / shape[1]
            rule = "multiplier 1/fan_in, rate x 1"
        case Role.EMBEDDING:
            lr = shape[-1] ** -0.5
            rule = "rate dim^-1/2, its deviation from muP for embeddings"
        case _ if width is not None:
            lr = width**-0.5
            rule = "a bias, rate x 1 behind its layer's multiplier fan_in^-1/2, folded"
    source = f"{_SOURCE}: {rule}" + ("" if depth is None else "; x (layers / 2)^-1/2 in the stack")
    lr *= stack
    # decay acts through lr x decay, of which folding changes the first factor only
    return Scaling(
        init=init,
        forward=forward,
        gradient=forward,
        lr=lr,
        weight_decay=lr ** -DECAY_POWER[decay],
        eps=eps,
        source=source,
    )


def _layer_fan_in(
    name: str, shapes: Mapping[str, tuple[int, ...]], facts: Mapping[str, ParamFacts]
) -> int | None:
    """Fan-in of the hidden layer that a bias belongs to; None for any other vector."""
    weight = f"{name.removesuffix('bias')}weight"
    if not name.endswith(".bias") or weight not in facts or facts[weight].role is not Role.MATRIX:
        return None
    return shapes[weight][1]


def unit_gains(config: BackboneSection, seq_len: int) -> dict[str, float]:
    """By name pattern, what gives a layer's input variance one again: fits of unit-scaling's
    functional.py."""
    return {
        "*.ffn.down.weight": _between(1 / (1 + 0.25), 2.0, math.sqrt(2 / (1 - 1 / math.pi))),
        "*.attention.output.weight": _attention_gain(config, seq_len),
    }


def find_gain(name: str, gains: Mapping[str, float]) -> float:
    """The gain of one parameter; 1 for a layer whose input has variance one as it is."""
    return next((gain for pattern, gain in gains.items() if fnmatchcase(name, pattern)), 1.0)


def _attention_gain(config: BackboneSection, seq_len: int) -> float:
    """Of a weighted mean of values: between that over all positions seen and that of a single one."""
    attention = config.attention
    d_head = attention_head(attention, config.d_model)
    multiplier = 8.0 if attention.scale == "mup" else math.sqrt(d_head)  # of logits q k / d_head
    mean_std = math.sqrt((math.log(seq_len) if attention.causal else 1.0) / seq_len)
    return 1 / _between(1 / (1 + 4 * d_head / multiplier**2), mean_std, 1.0)


def attention_head(config: AttentionConfig, d_model: int) -> int:
    """Channels per head."""
    return config.d_head if config.d_head is not None else d_model // (config.num_heads or 1)


def _between(alpha: float, lower: float, upper: float) -> float:
    return math.exp(alpha * math.log(upper) + (1 - alpha) * math.log(lower))


def residual_factors(num_layers: int) -> tuple[tuple[float, float], ...]:
    """(skip, branch) per layer, tau_i = (num_layers/2 + i)^-1/2: every branch adds the same variance
    (appendix G)."""
    taus = [(num_layers / 2 + index) ** -0.5 for index in range(num_layers)]
    return tuple((1 / math.sqrt(1 + tau**2), tau / math.sqrt(1 + tau**2)) for tau in taus)
