"""The recipe that a sweep was for, with the best values that it found and their origin. Torch-free."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher import files
from launcher.check.config import Provenance
from launcher.check.gate import hash_identity, recorded_check
from launcher.errors import Problem, UserError
from launcher.recipe.compile import dump_recipe, load_recipe
from launcher.recipe.schema import Recipe
from launcher.sweep.axes import CROSSED
from launcher.sweep.grid import SweepPoint
from launcher.sweep.results import PointResult
from launcher.sweep.transfer import Mean, find_transfer, mean_of

_NOT_VALUES = (*CROSSED, "train.steps")
"""Axes that a sweep compares over, and not for: the recipe keeps its own."""


@dataclass(frozen=True, slots=True)
class Best:
    """What `launch sweep --best` prints."""

    text: str
    """The recipe."""
    remarks: Sequence[str]
    """What makes its values less certain than they look."""


def best_recipe(
    path: str,
    drops: Sequence[str],
    axes: Sequence[str],
    points: Sequence[SweepPoint],
    results: Sequence[PointResult],
    out: Path,
) -> Best:
    """The recipe of the file, at its own width, with the best values at the largest width that was tried.

    Raises UserError while points have no result, and where values do not carry over to the recipe's width.
    """
    by_name = {result.name: result for result in results}
    missing = [
        p.name
        for p in points
        if by_name.get(p.name) is None or by_name[p.name].status in ("failed", "missing")
    ]
    if missing:
        message = f"{len(missing)} of {len(points)} points have no result, such as {missing[0]}"
        raise UserError(Problem(str(out), message, "train them: the same command without --best"))
    if not axes:
        raise UserError(Problem("launch sweep --best", "no value was compared", "sweep optim.lr=1e-3,2e-3"))
    width = max(point.recipe.model.d_model for point in points)
    widest = [point for point in points if point.recipe.model.d_model == width]
    groups: dict[tuple[str, ...], list[SweepPoint]] = {}
    for point in widest:
        groups.setdefault(tuple(dict(point.settings)[key] for key in axes), []).append(point)
    means = {key: mean_of([by_name[p.name].loss for p in group]) for key, group in groups.items()}
    best = min(means, key=lambda key: means[key].value)
    first = groups[best][0]
    overrides = [f"{key}={value}" for key, value in zip(axes, best, strict=True)]
    recipe = load_recipe(path, [*drops, *overrides]).recipe
    _check_width(recipe, width)
    remarks = [_edge(key, value, groups, at) for at, (key, value) in enumerate(zip(axes, best, strict=True))]
    optimum = _optimum(
        [by_name[p.name] for p in widest if _but_rate(p, axes) == _but_rate(first, axes)], width
    )
    provenance = Provenance(
        sweep=files.shortest(str(out)),
        values={key: _value(first, key) for key in axes},
        d_model=width,
        steps=first.recipe.train.steps,
        points=len(groups),
        seeds=means[best].count,
        loss=means[best].value,
        optimum_log2_lr=None if optimum is None else optimum.value,
        optimum_half_width=None if optimum is None or optimum.count < 2 else optimum.half_width,
        check=hash_identity(recipe) if recorded_check(recipe) else None,
    )
    return Best(
        dump_recipe(recipe.model_copy(update={"provenance": provenance})), list(filter(None, remarks))
    )


def compared_keys(points: Sequence[SweepPoint]) -> list[str]:
    """Keys with several values among all points that a sweep started with, but for width and seed."""
    values: dict[str, set[str]] = {}
    for point in points:
        for key, value in point.settings:
            values.setdefault(key, set()).add(value)
    return [key for key, found in values.items() if len(found) > 1 and key not in _NOT_VALUES]


def _check_width(recipe: Recipe, width: int) -> None:
    if recipe.mup.type == "sp" and recipe.model.d_model != width:
        own = recipe.model.d_model
        message = f"the best values at width {width} are not those of width {own} under mup.type sp"
        raise UserError(Problem("launch sweep --best", message, "use mup.type mup, or sweep at that width"))


def _edge(key: str, value: str, groups: Mapping[tuple[str, ...], object], at: int) -> str:
    """A remark where the best value is the first or last of its axis."""
    try:
        tried = sorted({float(other[at]) for other in groups})
    except ValueError:  # not numbers
        return ""
    if float(value) not in (tried[0], tried[-1]):
        return ""
    which = "smallest" if float(value) == tried[0] else "largest"
    return f"{key} = {value} is the {which} value that was tried: better ones may be outside"


def _but_rate(point: SweepPoint, axes: Sequence[str]) -> list[tuple[str, str]]:
    return [(key, value) for key, value in point.settings if key in axes and key != "optim.lr"]


def _optimum(results: Sequence[PointResult], width: int) -> Mean | None:
    """log2 of the best rate, between those that were tried."""
    found = find_transfer("", results)
    return next((one.log2_value for one in found.optima if one.d_model == width), None) if found else None


def _value(point: SweepPoint, key: str) -> float | int | str | bool | None:
    value: object = point.loaded.value(key)
    if value is None or isinstance(value, float | int | str | bool):
        return value
    message = f"{key} is a section or a list: provenance holds single values"
    raise UserError(Problem("launch sweep --best", message, "sweep the keys inside it"))
