"""u-muP (arXiv 2407.17465): absolute rules for stacks of attention and feed-forward layers.

unit-scaling keeps weights and gradients at variance one and multiplies layers by constants. Here each
constant is absorbed into its weight, and nothing is done to gradients: multiplier a, initial value w and rate
c become a w and a c (a^2 c for SGD), which is the same function and the same training. Only formats narrower
than bfloat16 show a difference.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from launcher.mup.config import DecayPolicy, MultiplierConfig
from launcher.mup.scaling import DECAY_POWER, Scaling, Update
from models.config import AttentionConfig, BackboneSection
from models.facts import ParamFacts, Role
from models.residual import layer_kinds

_SOURCE = "u-muP (arXiv 2407.17465), unit-scaling 0.3.5"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a parameter is in a model, as far as u-muP is concerned."""

    gain: float = 1.0
    """What its layer's input is multiplied by."""
    depth: float | None = None
    """Pairs of layers of the stack that it is in, if any."""
    branch: float = 1.0
    """Factor of the residual branch that it is in."""
    output: float = 1.0
    """What logits are multiplied by, for the loss only: unit-scaling's gradients do not have it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Unit:
    """One parameter in unit-scaling's own terms."""

    rate: float
    absorbed: float
    """Our value is this times theirs."""
    flow: float
    """Their gradient is this times the true one, up to sqrt(N) V / sqrt(V - 1) for N targets, V classes."""
    rule: str


def scale_umup(
    name: str,
    shapes: Mapping[str, tuple[int, ...]],
    facts: Mapping[str, ParamFacts],
    update: Update,
    *,
    place: Place,
    decay: DecayPolicy,
) -> Scaling:
    """Factors of one parameter, readout unconstrained.

    SGD's rate is for true gradients of the mean loss: unit-scaling's is this one over the constant of
    _Unit.flow.
    """
    role, shape = facts[name].role, shapes[name]
    unit = _in_unit_terms(name, shapes, facts, place)
    stack = 1.0 if place.depth is None else place.depth**-0.5
    # Adam's step has the size of its rate whatever the gradient: c in their weight is a c in ours, a times
    # theirs. SGD's follows the gradient, and that of w = a w' is 1/a of theirs, hence a^2 c.
    sgd = update == "sgd"
    lr = stack * unit.rate * unit.absorbed * (unit.flow / place.output * unit.absorbed if sgd else 1.0)
    forward = 1 / shape[1] if role is Role.READOUT else 1.0
    source = f"{_SOURCE}: {unit.rule}" + ("" if place.depth is None else "; x (layers / 2)^-1/2 in the stack")
    return Scaling(
        # the model draws matrices with std 1/sqrt(fan_in)
        init={Role.MATRIX: place.gain, Role.READOUT: math.sqrt(shape[-1])}.get(role, 1.0),
        forward=forward,
        gradient=forward,
        lr=lr,
        # decay acts through lr x decay, of which absorbing changes the first factor only
        weight_decay=lr ** -DECAY_POWER[decay],
        # gradients fall as 1/width, as under muP
        eps=(shape[-1] if role in (Role.EMBEDDING, Role.READOUT) else shape[0])
        ** -(2.0 if update == "smorms3" else 1.0),
        source=source + ("; true gradients in the place of unit ones" if sgd else ""),
    )


def _in_unit_terms(
    name: str, shapes: Mapping[str, tuple[int, ...]], facts: Mapping[str, ParamFacts], place: Place
) -> _Unit:
    role, shape = facts[name].role, shapes[name]
    num_classes, d_model = next(shapes[n] for n, fact in facts.items() if fact.role is Role.READOUT)
    # their readout divides its gradient by sqrt(classes), not by the width, and a branch's factor comes
    # after its gradient
    upstream = d_model / math.sqrt(num_classes) / place.branch
    layer = _layer_fan_in(name, shapes, facts)
    if role is Role.READOUT:
        return _Unit(rate=1.0, absorbed=1.0, flow=d_model, rule="multiplier 1/fan_in, rate x 1")
    if role is Role.EMBEDDING:
        rule = "rate dim^-1/2, its deviation from muP for embeddings"
        return _Unit(rate=shape[-1] ** -0.5, absorbed=1.0, flow=d_model, rule=rule)
    # (128, 32): their weight is drawn with variance 1 and multiplied by 32^-1/2 in the forward pass; ours is
    # drawn with 32^-1/2 and not multiplied, and its rate has the factor twice, once as theirs, once absorbed.
    if role is Role.MATRIX:
        multiplier = shape[1] ** -0.5
        rule = "multiplier and rate fan_in^-1/2 each, absorbed"
        return _Unit(rate=multiplier, absorbed=place.gain * multiplier, flow=upstream / multiplier, rule=rule)
    if layer is not None:
        multiplier = layer**-0.5
        rule = "a bias, rate x 1 after its layer's multiplier fan_in^-1/2, absorbed"
        return _Unit(rate=1.0, absorbed=multiplier, flow=upstream / multiplier, rule=rule)
    return _Unit(rate=1.0, absorbed=1.0, flow=upstream, rule="rate x 1")


def _layer_fan_in(
    name: str, shapes: Mapping[str, tuple[int, ...]], facts: Mapping[str, ParamFacts]
) -> int | None:
    """Fan-in of the hidden layer that a bias belongs to; None for any other vector."""
    weight = f"{name.removesuffix('bias')}weight"
    if not name.endswith(".bias") or weight not in facts or facts[weight].role is not Role.MATRIX:
        return None
    return shapes[weight][1]


def unit_gains(config: BackboneSection, multipliers: MultiplierConfig, seq_len: int) -> dict[str, float]:
    """By name pattern, what gives a layer's input variance one again (unit-scaling's functional.py)."""
    bend = 1 / (1 + 0.25 / multipliers.ffn**2)
    return {
        "*.ffn.down.weight": _between(bend, 2.0, math.sqrt(2 / (1 - 1 / math.pi))),
        "*.attention.output.weight": _attention_gain(config, multipliers.attention, seq_len),
    }


def find_places(
    config: BackboneSection,
    shapes: Mapping[str, tuple[int, ...]],
    multipliers: MultiplierConfig,
    seq_len: int,
) -> dict[str, Place]:
    """Where each parameter is."""
    gains, factors = unit_gains(config, multipliers, seq_len), residual_factors(config, multipliers)
    places = {}
    for name in shapes:
        gain = next((gain for pattern, gain in gains.items() if fnmatchcase(name, pattern)), 1.0)
        if name.startswith("layers."):
            branch = factors[int(name.split(".")[1])][1]
            place = Place(gain=gain, depth=config.num_layers / 2, branch=branch, output=multipliers.output)
        else:
            place = Place(gain=gain, output=multipliers.output)
        places[name] = place
    return places


def _attention_gain(config: BackboneSection, temperature: float, seq_len: int) -> float:
    """Of a weighted mean of values: between that over all positions seen and that of a single one."""
    attention = config.attention
    d_head = attention_head(attention, config.d_model)
    multiplier = temperature * (8.0 if attention.scale == "mup" else math.sqrt(d_head))  # of q k / d_head
    # of L equal weights the mean of unit values has std L^-1/2; a causal one is over 1, 2, ... L positions,
    # whose mean of 1/n is about ln(L) / L
    mean_std = math.sqrt((math.log(seq_len) if attention.causal else 1.0) / seq_len)
    return 1 / _between(1 / (1 + 4 * d_head / multiplier**2), mean_std, 1.0)


def attention_head(config: AttentionConfig, d_model: int) -> int:
    """Channels per head."""
    return config.d_head if config.d_head is not None else d_model // (config.num_heads or 1)


def _between(alpha: float, lower: float, upper: float) -> float:
    return math.exp(alpha * math.log(upper) + (1 - alpha) * math.log(lower))


def residual_factors(
    config: BackboneSection, multipliers: MultiplierConfig
) -> tuple[tuple[float, float], ...]:
    """(skip, branch) of layer i: branches add variances a_i^2, beside num_layers/2 of the input (appendix G).

    tau_i^2 = a_i^2 / (num_layers/2 + a_0^2 + ... + a_(i-1)^2), with a = r sqrt(2 / (1 + q^2)) for ffn, and q
    times that for what mixes positions; r is the residual multiplier, q the attention ratio.
    """
    # 2 layers, r = q = 1: tau 1 and 2^-1/2. The first takes skip and branch alike (2^-1/2 each), the second
    # 2/3 and 1/3 of the variance: in the end the input and both branches have a third each.
    ratio = multipliers.attention_ratio
    ffn = multipliers.residual * math.sqrt(2 / (1 + ratio**2))
    sizes = [ffn if kind == "ffn" else ratio * ffn for kind in layer_kinds(config)]
    taus = [
        size / math.sqrt(config.num_layers / 2 + _square_sum(sizes[:at])) for at, size in enumerate(sizes)
    ]
    return tuple((1 / math.sqrt(1 + tau**2), tau / math.sqrt(1 + tau**2)) for tau in taus)


def _square_sum(sizes: Sequence[float]) -> float:
    return sum(size**2 for size in sizes)
