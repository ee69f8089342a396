"""The grid of a sweep: `key=a,b,c` words -> checked recipes, one per point. Torch-free."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from launcher.errors import Problem, UserError
from launcher.optim.optimizer_table import OPTIMIZERS
from launcher.recipe.compile import load_recipe
from launcher.recipe.loaded import LoadedRecipe
from launcher.recipe.schema import Recipe
from launcher.recipe.tree import find
from launcher.sweep.axes import CURVE_KEYS, Axis
from launcher.sweep.draw import Draws, combinations

ONE_PROCESS = (
    "cluster={type: local, nproc_per_node: 1}",
    "parallel.engine=torch",
    "parallel.strategy=single",
    "parallel.zero_stage=null",
    "parallel.shard_size=null",
)
"""Overrides of every point: each is trained by one process on this machine."""

_LONGEST_NAME = 120


@dataclass(frozen=True, slots=True)
class Rung:
    """A length that points are trained for, other than the recipe's."""

    count: int
    """How many values, or combinations of values, are compared at this length."""
    steps: int
    overrides: tuple[str, ...]
    """What that asks of the recipe."""


@dataclass(frozen=True, slots=True)
class SweepPoint:
    """One point of the grid."""

    settings: tuple[tuple[str, str], ...]
    """(key, value as written) of every axis with several values, and of width, rate, seed and parametrization
    if they are given."""
    loaded: LoadedRecipe

    @property
    def recipe(self) -> Recipe:
        """The recipe of this point."""
        return self.loaded.recipe

    @property
    def name(self) -> str:
        """Name of its folder: readable, and equal for equal settings."""
        return point_name(self.settings)


def point_name(settings: Sequence[tuple[str, str]]) -> str:
    """`d_model=64,lr=1e-3,seed=1`, with a hash if the name alone could be that of other settings too."""
    # The name is how a later sweep finds what is done, so two points must never have the same. It can lose
    # information in three ways: letters not allowed in a path, two keys with the same last part
    # (`optim.lr`, `optim.others.lr`), and the cut at 120 letters.
    full = ",".join(f"{key}={value}" for key, value in settings)
    last = [key.rsplit(".", 1)[-1] for key, _ in settings]
    values = [_short_value(value) for _, value in settings]
    safe = ",".join(f"{key}={value}" for key, value in zip(last, values, strict=True)) or "recipe"
    lossless = values == [value for _, value in settings] and len(set(last)) == len(last)
    if lossless and len(safe) <= _LONGEST_NAME:
        return safe
    return f"{safe[:_LONGEST_NAME]}-{hashlib.sha256(full.encode()).hexdigest()[:8]}"


def _short_value(value: str) -> str:
    """A value for a file name: the type of a section, else the letters that are allowed there."""
    section = re.match(r"\{\s*type:\s*(\w+)", value)
    return section[1] if section else re.sub(r"[^\w.+-]+", "", value)


def _optimizer_keys(path: str) -> tuple[str, ...]:
    """What a recipe says of its optimizer."""
    section = find(load_recipe(path).tree, ("optim",))
    return tuple(section.value) if section is not None and isinstance(section.value, dict) else ()


def load_points(
    path: str,
    axes: Sequence[Axis],
    drops: Sequence[str] = (),
    draws: Draws | None = None,
    rung: Rung | None = None,
) -> tuple[SweepPoint, ...]:
    """Check the recipe of every point; the first axis changes slowest. `drops` are ~key words for all.

    Where optimizers are compared, each leaves out what the recipe says for another one. Raises UserError with
    all problems.
    """
    written = _optimizer_keys(path) if any(axis.key == "optim.type" for axis in axes) else ()
    points: list[SweepPoint] = []
    problems: dict[str, Problem] = {}
    for values in combinations(axes, draws):
        pairs = {axis.key: value for axis, value in zip(axes, values, strict=True)}
        kind = OPTIMIZERS.get(pairs.get("optim.type", ""))
        foreign = [key for key in written if kind is not None and key not in kind.section.model_fields]
        overrides = [*drops, *(f"~optim.{key}" for key in foreign)]
        overrides += [f"{key}={value}" for key, value in pairs.items()]
        settings = tuple(
            (axis.key, value)
            for axis, value in zip(axes, values, strict=True)
            if axis.span or len(axis.values) > 1 or axis.key in (*CURVE_KEYS, "mup", "mup.type")
        )
        if rung is not None:
            settings += (("train.steps", str(rung.steps)),)
            overrides += rung.overrides
        # All points are checked before the first is trained, and a mistake that all of them share is one
        # problem.
        try:
            points.append(SweepPoint(settings, load_recipe(path, [*overrides, *ONE_PROCESS])))
        except UserError as error:
            problems |= {str(problem): problem for problem in error.problems}
    if problems:
        raise UserError(*problems.values())
    return tuple(points)
