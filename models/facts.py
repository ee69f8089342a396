"""Facts about parameters: pure data keyed by name, declared beside each module, never tensor attributes."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase

import torch

Init = Callable[[torch.Size, torch.Generator], torch.Tensor]
"""Draws the float32 initial value of one whole, unsharded parameter (standard parametrisation)."""


class Role(StrEnum):
    """What a parameter is to muP (Tensor Programs V, Table 8; `state` is the SSM's own)."""

    EMBEDDING = "embedding"  # finite -> width
    MATRIX = "matrix"  # width -> width
    READOUT = "readout"  # width -> finite
    TIED = "tied"  # an embedding that also reads out, transposed
    VECTOR = "vector"  # biases, norm gains
    STATE = "state"  # dt, A, B, C, D of a state-space layer: one width dimension, vector-like


@dataclass(frozen=True, slots=True, kw_only=True)
class ParamFacts:
    """What the optimizer, the muP rules and the initialiser must know about one parameter."""

    role: Role
    init: Init
    decay: bool
    ssm: str | None = None
    """Which SSM tensor it is ("dt", "A", "B", "C", "D", "P"): key of the recipe's optim.ssm section."""
    fan_in_dim: int = 1
    """Which dimension is fan-in where two grow: 1 as torch stores (out, in, ...), 0 for (in, out, ...)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Multipliers:
    """Forward multipliers of a parametrisation, plain floats computed before anything is built."""

    readout: float = 1.0
    residual: tuple[tuple[float, float], ...] | None = None
    """(skip, branch) of every residual layer; None: 1, and the factor of the model's own section."""
    embedding: float = 1.0
    """On what the encoder gives."""
    attention: float = 1.0
    """On logits q k, beside their scale."""
    ssm: float = 1.0
    """On the outputs of a state space, before gelu."""
    ffn: float = 1.0
    """a in gelu(a x) / a."""


def match_facts(names: Iterable[str], patterns: Mapping[str, ParamFacts]) -> dict[str, ParamFacts]:
    """Give every name the facts of the one pattern that matches it.

    Raises ValueError naming each parameter with no or several patterns, and each pattern without a parameter.
    """
    names = list(names)
    # Exactly once and no pattern unused: what a renamed or forgotten parameter would otherwise change
    # silently is its rate, its decay and its scaling.
    hits = {name: [p for p in patterns if fnmatchcase(name, p)] for name in names}
    wrong = [f"{name}: {found or 'no pattern'}" for name, found in hits.items() if len(found) != 1]
    used = {p for found in hits.values() for p in found}
    wrong += [f"pattern {p!r} matches no parameter" for p in patterns if p not in used]
    if wrong:
        raise ValueError("every parameter needs exactly one pattern of facts:\n  " + "\n  ".join(wrong))
    return {name: patterns[found[0]] for name, found in hits.items()}


def prefixed(prefix: str, facts: Mapping[str, ParamFacts]) -> dict[str, ParamFacts]:
    """The same facts under names that start with `prefix`."""
    return {prefix + name: fact for name, fact in facts.items()}
