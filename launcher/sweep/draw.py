"""Which points a sweep has: every combination of values, or some drawn at random. Torch-free."""

import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from launcher.errors import Problem, UserError
from launcher.sweep.axes import CROSSED, Axis

_MOST_POINTS = 10_000


@dataclass(frozen=True, slots=True)
class Draws:
    """A random search: so many draws. The first ten of twenty are the ten of ten."""

    count: int
    seed: int = 0


def combinations(axes: Sequence[Axis], draws: Draws | None) -> list[tuple[str, ...]]:
    """A value for every axis, for each point; the first axis changes slowest.

    Raises UserError for ranges without draws, and for too many points.
    """
    if draws is None:
        ranges = [axis for axis in axes if axis.span is not None]
        if ranges:
            message = f"{ranges[0].key} is a range, of which values are drawn"
            raise UserError(Problem("launch sweep", message, "add --random N, or write values: a,b,c"))
        _limit([len(axis.values) for axis in axes])
        return list(itertools.product(*(axis.values for axis in axes)))
    crossed = [axis.key in CROSSED for axis in axes]
    _limit([draws.count, *(len(axis.values) for axis in axes if axis.key in CROSSED)])
    found: dict[tuple[str, ...], None] = {}
    for draw in range(draws.count):
        generator = random.Random(f"{draws.seed}:{draw}")
        drawn = [(_draw(axis, generator),) for axis in axes]
        choices = [
            axis.values if cross else one for axis, cross, one in zip(axes, crossed, drawn, strict=True)
        ]
        found |= dict.fromkeys(itertools.product(*choices))
    return list(found)


def _draw(axis: Axis, generator: random.Random) -> str:
    """A value of the list, or one of the range, equally likely in every octave, to three digits."""
    if axis.span is None:
        return generator.choice(axis.values)
    low, high = axis.span
    value = math.exp(generator.uniform(math.log(low), math.log(high)))
    return str(round(value)) if axis.whole else f"{value:.3g}"


def _limit(sizes: Sequence[int]) -> None:
    if math.prod(sizes) > _MOST_POINTS:
        message = (
            f"{' x '.join(map(str, sizes))} = {math.prod(sizes)} points; at most {_MOST_POINTS} are allowed"
        )
        raise UserError(Problem("launch sweep", message, "sweep fewer values"))
