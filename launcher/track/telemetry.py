"""Norms of single parameters, gathered by optimizer group and by layer. Pure arithmetic."""

import math
from collections.abc import Callable, Iterable, Mapping


def layer_of(name: str) -> str:
    """Where a parameter sits: `layers.3` for `layers.3.s4d.ssm.C`, else its first part (`embedding`)."""
    parts = name.split(".")
    return ".".join(parts[:2]) if parts[0] == "layers" else parts[0]


def combine_norms(norms: Mapping[str, float], label: Callable[[str], str]) -> dict[str, float]:
    """L2 norm over all parameters of one label, from those of each parameter."""
    squares: dict[str, float] = {}
    for name, norm in norms.items():
        squares[label(name)] = squares.get(label(name), 0.0) + norm * norm
    return {key: math.sqrt(square) for key, square in squares.items()}


def divide(upper: Mapping[str, float], lower: Mapping[str, float]) -> dict[str, float]:
    """Ratios by label; left out where the divisor is zero: a readout that starts at zero weighs nothing."""
    return {key: value / lower[key] for key, value in upper.items() if lower[key] > 0.0}


def named(names: Iterable[str], values: Iterable[float]) -> dict[str, float]:
    """Values by the names that they belong to, in the same order."""
    return dict(zip(names, values, strict=True))
