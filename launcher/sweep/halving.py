"""Successive halving (arXiv 1502.07943): many points for a short time, the best for longer. Torch-free.

Every rung trains from the start, with the whole schedule: a run that is cut off before its rate has decayed
says little about the rate, and would let low rates win. That costs 1/(1 - 1/eta) of what resuming would.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from launcher.errors import Problem, UserError
from launcher.recipe.schema import Recipe
from launcher.sweep.axes import CROSSED
from launcher.sweep.grid import Rung, SweepPoint
from launcher.sweep.results import PointResult
from models.config import sequences_per_sample

_LEAST_STEPS = 10
_LENGTHS = ("warmup_steps", "decay_steps", "period")
"""Keys of schedules that are numbers of steps."""

Compared = tuple[tuple[str, str], ...]
"""What is compared: the settings of a point but for width, seed and length."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What a sweep may cost, in tokens over all of its points; None for as long as the recipe says."""

    tokens: float | None
    eta: int | None
    """Of each rung's points, the best 1/eta are trained eta times as long; None: a single rung."""


def plan_rungs(points: Sequence[SweepPoint], budget: Budget) -> list[Rung]:
    """The length of every rung, shortest first. Raises UserError where the budget is too small."""
    recipe = points[0].recipe
    kept = list(_kept(len({compared(point) for point in points}), budget.eta))
    # Of each rung, the length over that of the last.
    shares = [float(budget.eta or 1) ** (at - len(kept) + 1) for at in range(len(kept))]
    longest = float(recipe.train.steps)
    if budget.tokens is not None:
        # 27, 9, 3 at shares 1/9, 1/3, 1 cost 3 whole lengths each, times the widths and seeds of each.
        lengths = sum(count * share for count, share in zip(kept, shares, strict=True))
        copies = len(points) / kept[0]
        longest = budget.tokens / (tokens_per_step(recipe) * copies * lengths)
    shortest = longest * shares[0]
    if shortest < _LEAST_STEPS:
        message = (
            f"the shortest points would train for {shortest:.1f} steps; at least {_LEAST_STEPS} are needed"
        )
        remedy = f"try fewer points, or {_LEAST_STEPS / shortest:.1f} x the tokens or steps"
        raise UserError(Problem("launch sweep", message, remedy))
    return [_rung(recipe, count, int(longest * share)) for count, share in zip(kept, shares, strict=True)]


def _kept(count: int, eta: int | None) -> list[int]:
    """How many of `count` each rung has: 27, 9, 3 at eta 3, the last with at least two."""
    found = [count]
    while eta is not None and found[-1] // eta >= 2:
        found.append(found[-1] // eta)
    return found


def _rung(recipe: Recipe, count: int, steps: int) -> Rung:
    """The recipe at another length: its schedule is stretched, and it is saved and scored at the end."""
    scale = steps / recipe.train.steps
    lengths = [
        f"schedule.{key}={max(round(getattr(recipe.schedule, key) * scale), 1)}"
        for key in _LENGTHS
        if getattr(recipe.schedule, key, 0)
    ]
    words = (f"train.steps={steps}", "train.validate_every=null", f"checkpoint.every={steps}")
    return Rung(count, steps, (*words, *lengths))


def tokens_per_step(recipe: Recipe) -> int:
    """Positions that an optimizer step reads."""
    return recipe.train.global_batch_size * recipe.data.seq_len * sequences_per_sample(recipe.model)


def compared(point: SweepPoint) -> Compared:
    """In what a point differs from the others of its width, seed and length."""
    return tuple(pair for pair in point.settings if pair[0] not in (*CROSSED, "train.steps"))


def survivors(points: Sequence[SweepPoint], results: Mapping[str, PointResult], keep: int) -> list[Compared]:
    """The best `keep`, by mean loss over seeds at the largest width; what crashed or diverged comes last."""
    widest = max(point.recipe.model.d_model for point in points)
    losses: dict[Compared, list[float]] = {}
    for point in points:
        if point.recipe.model.d_model == widest:
            loss = results[point.name].loss
            losses.setdefault(compared(point), []).append(math.inf if math.isnan(loss) else loss)
    finite = [key for key in losses if math.isfinite(fmean(losses[key]))]
    return sorted(finite, key=lambda key: fmean(losses[key]))[:keep]
