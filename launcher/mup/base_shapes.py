"""Base shapes: which dimensions of each parameter grow with width, and from what base.

Names and integers only: no tensor is needed to compute, store or compare them.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from launcher.errors import Problem, UserError

Shapes = Mapping[str, tuple[int, ...]]
"""Shape of every parameter, keyed by its fully qualified name."""

BaseShapes = Mapping[str, tuple[int | None, ...]]
"""Per parameter and dimension, the size at the base width, or None where it does not grow (is finite)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WidthMultiplier:
    """Growth of one parameter over its base: ratios of its infinite dimensions, 1.0 where finite."""

    fan_in: float
    fan_out: float
    num_infinite: int


def find_base_shapes(base: Shapes, delta: Shapes) -> dict[str, tuple[int | None, ...]]:
    """A dimension is infinite where base and delta differ (the definition of the mup package).

    Raises UserError naming parameters that only one of the two models has, or has with another number of
    dimensions.
    """
    _check_same_names(base, delta, "the base model", "the delta model")
    problems = [
        Problem(
            name,
            f"is {len(shape)}-dimensional in the base model and {len(delta[name])}-dimensional in the "
            f"delta model",
            _FIT,
            key=_KEY,
        )
        for name, shape in base.items()
        if len(shape) != len(delta[name])
    ]
    if problems:
        raise UserError(*problems)
    # d_model 32 and 64: layers.0.ffn.up.weight, (128, 32) and (256, 64), grows in both dimensions: (128, 32).
    # readout.weight, (256, 32) and (256, 64), has 256 bytes at every width: (None, 32).
    return {
        name: tuple(b if b != d else None for b, d in zip(shape, delta[name], strict=True))
        for name, shape in base.items()
    }


def measure_width_multipliers(
    shapes: Shapes, base_shapes: BaseShapes, fan_in_dims: Mapping[str, int] | None = None
) -> dict[str, WidthMultiplier]:
    """Width multipliers of every parameter. Raises UserError where names or numbers of dimensions
    do not fit.

    `fan_in_dims`: which dimension is fan-in, for weights that are not stored as (out, in, ...).
    """
    _check_same_names(shapes, base_shapes, "the model", "the base shapes")
    problems = [
        Problem(name, f"shape {shape} does not fit base shape {_show(base_shapes[name])}", _FIT, key=_KEY)
        for name, shape in shapes.items()
        if len(shape) != len(base_shapes[name])
    ]
    if problems:
        raise UserError(*problems)
    dims = fan_in_dims or {}
    return {name: _width(name, shape, base_shapes[name], dims.get(name, 1)) for name, shape in shapes.items()}


def check_finite(shapes: Shapes, base: Shapes, base_shapes: BaseShapes) -> None:
    """Raise UserError where a dimension equal in the base and delta models differs in the target model."""
    problems = [
        Problem(
            name,
            f"has shape {shape}, and {base[name]} at the base width, but does not grow in every such "
            f"dimension between base and delta: {_show(base_shapes[name])}",
            "let every width-like dimension follow d_model, or give base shapes in a file (mup.base_shapes)",
            key="mup.base_width",
        )
        for name, shape in shapes.items()
        if any(
            dim is None and mine != its
            for mine, its, dim in zip(shape, base[name], base_shapes[name], strict=True)
        )
    ]
    if problems:
        raise UserError(*problems)


_FIT = "base shapes belong to one architecture; make new ones for this one"
_KEY = "mup.base_shapes"
"""At fault where shapes do not fit; without a file, the problem stands at the section."""


def _width(
    name: str, shape: tuple[int, ...], base: tuple[int | None, ...], fan_in_dim: int
) -> WidthMultiplier:
    # torch keeps (out, in, ...). A single infinite dimension is its parameter's only width, on whichever
    # side it is: both fan_in and fan_out mean it, so that a row of the rules may use either. At d_model 64,
    # (256, 64) over (128, 32) is fan_in 2 and fan_out 2, and (256, 64) over (None, 32) is 2 as well.
    growth = [size / b if b is not None else None for size, b in zip(shape, base, strict=True)]
    ratios = [ratio for ratio in growth if ratio is not None]
    if len(ratios) < 2:
        only = ratios[0] if ratios else 1.0
        return WidthMultiplier(fan_in=only, fan_out=only, num_infinite=len(ratios))
    fan_in = growth[fan_in_dim]
    if fan_in is None:
        message = f"dimension {fan_in_dim} is fan-in, but does not grow in base shape {_show(base)}"
        raise UserError(Problem(name, message, _FIT, key=_KEY))
    fan_out = next(ratio for dim, ratio in enumerate(growth) if ratio is not None and dim != fan_in_dim)
    return WidthMultiplier(fan_in=fan_in, fan_out=fan_out, num_infinite=len(ratios))


def hash_shapes(base_shapes: BaseShapes) -> str:
    """Identity of base shapes: sha256 of their canonical JSON, independent of order."""
    # sorted and as JSON, not the file's text: comments, order and who wrote it must not change the identity
    canonical = json.dumps({name: list(dims) for name, dims in base_shapes.items()}, sort_keys=True)
    return "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()


def compare_shapes(saved: BaseShapes, current: BaseShapes, most: int = 8) -> list[str]:
    """Readable differences between two base shapes: one line a parameter, at most `most`, and a count."""
    lines = []
    for name in sorted({*saved, *current}):
        old, new = saved.get(name), current.get(name)
        if old is None:
            lines.append(f"{name}: not in the checkpoint, {_show(new)} in the recipe")
        elif new is None:
            lines.append(f"{name}: {_show(old)} in the checkpoint, not in the recipe")
        elif tuple(old) != tuple(new):
            lines.append(f"{name}: {_show(old)} in the checkpoint, {_show(new)} in the recipe")
    return lines[:most] + ([f"... and {len(lines) - most} more"] if len(lines) > most else [])


def _show(dims: tuple[int | None, ...] | None) -> str:
    return "(" + ", ".join("finite" if d is None else str(d) for d in dims or ()) + ")"


def _check_same_names(
    one: Mapping[str, object], other: Mapping[str, object], first: str, second: str
) -> None:
    problems = [
        Problem(name, f"is in {first} but not in {second}", _FIT, key=_KEY)
        for name in one
        if name not in other
    ]
    problems += [
        Problem(name, f"is in {second} but not in {first}", _FIT, key=_KEY)
        for name in other
        if name not in one
    ]
    if problems:
        raise UserError(*problems)
