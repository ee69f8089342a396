"""The grid of a sweep: `key=a,b,c` words -> checked recipes, one per point. Torch-free."""

import hashlib
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from launcher.errors import Problem, UserError
from launcher.optim.optimizer_table import OPTIMIZERS
from launcher.recipe.compile import load_recipe
from launcher.recipe.loaded import LoadedRecipe
from launcher.recipe.schema import Recipe
from launcher.recipe.tree import find

ONE_PROCESS = (
    "cluster={type: local, nproc_per_node: 1}",
    "parallel.engine=torch",
    "parallel.strategy=single",
    "parallel.zero_stage=null",
    "parallel.shard_size=null",
)
"""Overrides of every point: each is trained by one process on this machine."""

_OURS = re.compile(r"cluster|cluster\..*|parallel|parallel\.(engine|strategy|zero_stage|shard_size)")
_MOST_POINTS = 10_000
_LONGEST_NAME = 120


@dataclass(frozen=True, slots=True)
class Axis:
    """One key and its values, as written; an axis with one value is a plain override."""

    key: str
    values: tuple[str, ...]


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


CURVE_KEYS = ("model.d_model", "optim.lr", "seed")
"""Keys along which losses form the curves of one series."""


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


def read_axes(words: Sequence[str]) -> tuple[Axis, ...]:
    """Read `key=a,b,c` words. Raises UserError with every word that is not one, or is repeated."""
    axes: list[Axis] = []
    problems: list[Problem] = []
    for word in words:
        key, equals, text = word.partition("=")
        place = f"axis {word!r}"
        values = split_values(text)
        if not equals or not key.strip() or not all(values):
            problems.append(Problem(place, "is not key=value,value,...", "for example optim.lr=1e-3,2e-3"))
        elif key in [axis.key for axis in axes]:
            problems.append(Problem(place, f"{key} is given twice", "write all its values after one key"))
        elif len(set(values)) < len(values):
            problems.append(Problem(place, f"has a value twice: {text}", "write each value once"))
        elif _OURS.fullmatch(key):
            message = "is not for a sweep: each point is trained by one process on this machine"
            problems.append(Problem(place, message, "launch a single recipe to shard it"))
        else:
            axes.append(Axis(key.strip(), values))
    if problems:
        raise UserError(*problems)
    return tuple(axes)


def split_values(text: str) -> tuple[str, ...]:
    """Split at commas outside of brackets and quotes: `[a,b],[c]` has two values."""
    values, depth, quote, start = [], 0, "", 0
    for position, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        elif letter in "[{":
            depth += 1
        elif letter in "]}":
            depth -= 1
        elif letter == "," and depth == 0:
            values.append(text[start:position].strip())
            start = position + 1
    return (*values, text[start:].strip())


def _optimizer_keys(path: str) -> tuple[str, ...]:
    """What a recipe says of its optimizer."""
    section = find(load_recipe(path).tree, ("optim",))
    return tuple(section.value) if section is not None and isinstance(section.value, dict) else ()


def load_points(path: str, axes: Sequence[Axis], drops: Sequence[str] = ()) -> tuple[SweepPoint, ...]:
    """Check the recipe of every point; the first axis changes slowest. `drops` are ~key words for all.

    Where optimizers are compared, each leaves out what the recipe says for another one. Raises UserError with
    all problems.
    """
    count = 1
    for axis in axes:
        count *= len(axis.values)
    if count > _MOST_POINTS:
        sizes = " x ".join(str(len(axis.values)) for axis in axes)
        message = f"{sizes} = {count} points; at most {_MOST_POINTS} are allowed"
        raise UserError(Problem("launch sweep", message, "sweep fewer values"))
    written = _optimizer_keys(path) if any(axis.key == "optim.type" for axis in axes) else ()
    points: list[SweepPoint] = []
    problems: dict[str, Problem] = {}
    for values in itertools.product(*(axis.values for axis in axes)):
        pairs = {axis.key: value for axis, value in zip(axes, values, strict=True)}
        kind = OPTIMIZERS.get(pairs.get("optim.type", ""))
        foreign = [key for key in written if kind is not None and key not in kind.section.model_fields]
        overrides = [*drops, *(f"~optim.{key}" for key in foreign)]
        overrides += [f"{key}={value}" for key, value in pairs.items()]
        settings = tuple(
            (axis.key, value)
            for axis, value in zip(axes, values, strict=True)
            if len(axis.values) > 1 or axis.key in (*CURVE_KEYS, "mup", "mup.type")
        )
        # All points are checked before the first is trained, and a mistake that all of them share is one
        # problem.
        try:
            points.append(SweepPoint(settings, load_recipe(path, [*overrides, *ONE_PROCESS])))
        except UserError as error:
            problems |= {str(problem): problem for problem in error.problems}
    if problems:
        raise UserError(*problems.values())
    return tuple(points)
