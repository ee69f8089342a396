"""The coordinate check: do activations change equally at every width? (TP-V, arXiv 2203.03466, app. D.1)

Each module has three measures, all mean magnitudes of a coordinate. None may depend on width:
init   its output before training
total  the change of its output in training, including changes of the modules before it
own    the change on its original inputs, caused by its own parameters only: it shows a wrong rate even if a
       larger change of the modules before it hides this in `total`

Each parameter has two, of launcher/check/alone.py: how far it has moved, and what that alone does to its
module.
"""

import math
import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Literal, final

import torch

from launcher.check.alone import copy_parameters, effects, moves
from launcher.check.probe import (
    Recording,
    changes,
    logit_changes,
    mean_abs,
    own_changes,
    state_magnitudes,
)
from launcher.check.proxy import ProxyModel, build_proxy, first_batch
from launcher.check.shrink import shrink_recipe, without_decay
from launcher.processes import forkserver, run_group
from launcher.recipe.schema import Recipe
from launcher.world import World, close_world, join_local_world

Measure = Literal["init", "total", "own", "state", "moved", "alone"]

# Theory gives exponents of 0, 1/2 or 1 in the limit of large width: the bound is half-way between the first
# two. At the widths of a check, from 128 on, right rules still give up to 0.2 (logits of heads that grow,
# Shampoo), which fades with the width, and wrong ones 0.35 and more. What hides below is seen by factors.py.
BOUND = 0.25
"""Largest |slope| of log2 magnitude over log2 width; the true exponent of a wrong rule is 1/2 or 1."""
PARAMETER_BOUND = 0.4
"""The same for one parameter alone: a wrong rate is off by a whole power, and four steps of one tensor are
noisier than a module (right ones up to 0.36 in forty variations, planted breaks 0.6 and more)."""
OF_PARAMETERS: tuple[Measure, ...] = ("moved", "alone")
LOGITS = ".logits"
"""How the measure of an attention layer's logits ends."""
READOUT = "readout"
TIMEOUT_S = 300.0
"""For the whole sharded check."""
FIRST_STEP, NUM_STEPS = 2, 4
"""In the first step, a zero readout stops all gradients below it: steps are judged from the second on."""


@final
@dataclass(frozen=True, slots=True)
class Value:
    """One measured number of one proxy model."""

    measure: Measure
    step: int
    module: str
    d_model: int
    seed: int
    value: float


@final
@dataclass(frozen=True, slots=True)
class Slope:
    """How a measure of a module grows: width^slope; NaN if there is nothing to measure."""

    measure: Measure
    step: int
    module: str
    slope: float
    values: tuple[float, ...]
    """Mean over seeds, for each width."""
    expected: float = 0.0
    """The slope that the parametrization intends: 0, except for what it lets shrink by design."""
    widest: float = math.nan
    """The slope over the wider half of the widths."""
    may_fall: bool = False
    """Whether exponents down to 1/2 less are right too: part of it is random at the start, and falls so."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What all proxy models of a check have in common."""

    recipe: Recipe
    widths: tuple[int, ...]
    seeds: tuple[int, ...]
    lr_amplification: float
    ranks: int = 1


def measure_coordinates(setting: Setting, world: World) -> list[Value]:
    """Train every proxy model for a few steps on one batch and measure it; all ranks together."""
    values: list[Value] = []
    for d_model in setting.widths:
        for seed in setting.seeds:
            recipe = shrink_recipe(setting.recipe, d_model=d_model, seed=seed, ranks=setting.ranks)
            proxy = build_proxy(without_decay(recipe), first_batch(recipe), world)
            values += [
                Value(*key, d_model, seed, value)
                for key, value in measure_proxy(proxy, setting.lr_amplification)
            ]
            proxy.close()  # before the next, so that two are never in memory at once
    return values


def measure_sharded(setting: Setting) -> list[Value]:
    """measure_coordinates on `setting.ranks` processes of this machine's CPU: the values of rank 0.

    Raises GroupError where a rank fails.
    """
    with tempfile.TemporaryDirectory(prefix="check-") as folder:
        tasks = [(setting, Path(folder) / "rendezvous")] * setting.ranks
        context = forkserver("launcher.check.coordinates")
        return run_group(_measure_rank, tasks, timeout_s=TIMEOUT_S, context=context)[0]


def _measure_rank(task: tuple[Setting, Path], rank: int) -> list[Value]:
    setting, rendezvous = task
    torch.set_num_threads(1)  # as for unsharded models, so that sums differ only by the sharding
    world = join_local_world(rank, setting.ranks, rendezvous, TIMEOUT_S)
    values = measure_coordinates(setting, world)
    close_world(world)
    return values


def measure_proxy(
    proxy: ProxyModel, lr_amplification: float
) -> Iterable[tuple[tuple[Measure, int, str], float]]:
    """Yield ((measure, step, module), value) of one model."""
    before, _ = proxy.record()
    # A module of a sharded model cannot be called by itself: hooks of a larger one gather its parameters.
    alone = proxy.world.size == 1
    initial = copy_parameters(proxy.model) if alone else {}
    yield from ((("init", 0, name), mean_abs(output)) for name, output in before.outputs.items())
    if alone:
        yield from ((("state", 0, name), size) for name, size in state_magnitudes(proxy.model, proxy.batch))
    for step in range(1, NUM_STEPS + 1):
        proxy.train_step(lr_amplification)
        # Every later step is judged: a wrong rate may cancel out in one of them, but hardly in all.
        if step >= FIRST_STEP:
            yield from _measure_step(proxy, before, step, alone)
    if alone:
        for name, size in state_magnitudes(proxy.model, proxy.batch):
            yield ("state", NUM_STEPS, name), size
        yield from ((("moved", NUM_STEPS, name), size) for name, size in moves(proxy.model, initial))
        yield from (
            (("alone", NUM_STEPS, name), size) for name, size in effects(proxy.model, before, initial)
        )


def _measure_step(
    proxy: ProxyModel, before: Recording, step: int, alone: bool
) -> Iterable[tuple[tuple[Measure, int, str], float]]:
    now, _ = proxy.record()
    yield from ((("total", step, name), change) for name, change in changes(now, before).items())
    yield from ((("total", step, name), change) for name, change in logit_changes(proxy.model, now, before))
    if alone:
        with torch.no_grad():
            own = own_changes(proxy.model, before)
        yield from ((("own", step, name), change) for name, change in own.items())


def fit_slopes(
    values: Sequence[Value],
    parametrization: str,
    of_parameters: Mapping[tuple[Measure, str], float],
    falling: Collection[str] = (),
) -> list[Slope]:
    """Least squares through log2 of the mean over seeds against log2 of the width.

    `of_parameters` are the exponents that are right; what has none there is left out. What has one of
    `falling` in its name may fall.
    Seeds are averaged before the logarithm: means 1.0, 1.41, 2.0, 2.83 at widths 64 to 512 have slope 0.5.
    """
    table: dict[tuple[Measure, int, str], dict[int, list[float]]] = {}
    for value in values:
        key = (value.measure, value.step, value.module)
        table.setdefault(key, {}).setdefault(value.d_model, []).append(value.value)
    slopes = []
    for (measure, step, module), by_width in table.items():
        means = {width: fmean(found) for width, found in sorted(by_width.items())}
        expected = expected_exponent(parametrization, measure, module)
        if measure in OF_PARAMETERS:
            if (measure, module) not in of_parameters or len(means) < len({v.d_model for v in values}):
                continue
            expected = of_parameters[measure, module]
        wider = max(2, -(-len(means) // 2))
        widest = fit_exponent(dict(list(means.items())[-wider:]))
        sizes, falls = tuple(means.values()), _may_fall(measure, module, falling)
        slopes.append(Slope(measure, step, module, fit_exponent(means), sizes, expected, widest, falls))
    return slopes


def _may_fall(measure: Measure, module: str, falling: Collection[str]) -> bool:
    # Logits q k / d change by what q and k agree in, which keeps its size, and by what they do not, which
    # falls as d^-1/2 like the logits at the start: every exponent between the two is right.
    if module.endswith(LOGITS):
        return True
    # So do those of a readout that starts at random, by what it makes of changes below; not by its own.
    if module == READOUT:
        return READOUT in falling and measure == "total"
    return any(part in module for part in falling)


def expected_exponent(parametrization: str, measure: Measure, module: str) -> float:
    """u-muP has embeddings learn at a rate of width^-1/2 (arXiv 2407.17465, section 4.4); all else is 0."""
    return -0.5 if (parametrization, module) == ("umup", "embedding") and measure in ("total", "own") else 0.0


def fit_exponent(means: dict[int, float]) -> float:
    """The exponent of a power law; NaN if a value is zero, infinite if one is not finite."""
    # A model that overflowed must fail, whatever slope its finite widths have: infinity is beyond any bound.
    if not all(map(math.isfinite, means.values())):
        return math.inf
    if min(means.values()) <= 0.0:
        return math.nan
    # Least squares in log-log: slope = cov(x, y) / var(x). Values 1, 1.3, 1.7, 2.2 at widths 128 to 1024 have
    # logs 0, 0.38, 0.77, 1.14 and slope 0.38, which fails; growth by 1.6 over the whole range would pass.
    x = [math.log2(width) for width in means]
    y = [math.log2(value) for value in means.values()]
    x_mean, y_mean = fmean(x), fmean(y)
    spread = sum((a - x_mean) ** 2 for a in x)
    return sum((a - x_mean) * (b - y_mean) for a, b in zip(x, y, strict=True)) / spread


def is_judged(slope: Slope) -> bool:
    """All but zero initial outputs, and the initial logits, which may shrink with width."""
    # NaN stands for a value of zero. Before training this is by design: a zero readout, or a mixer's zero
    # state. So it is while another parameter's zeros stop the gradient: keys move one step after zero
    # queries, and those one step after a zero readout. By the last step all must have moved.
    if math.isnan(slope.slope):
        waits = slope.step < NUM_STEPS and not any(slope.values)
        return slope.measure in ("total", "own", *OF_PARAMETERS) and not waits
    return not (slope.measure == "init" and slope.module == "readout")


def fails(slope: Slope) -> bool:
    """Whether a judged slope is out of bounds."""
    bound = PARAMETER_BOUND if slope.measure in OF_PARAMETERS else BOUND
    return is_judged(slope) and not distance(slope) <= bound


def distance(slope: Slope) -> float:
    """From the exponents that are right: over all widths, or over the wider half where that is smaller.

    An exponent is one of the limit. What finite width adds fades from pair to pair; a wrong rule stays.
    """
    if not math.isfinite(slope.slope):
        return math.inf
    return min(_off(slope, slope.slope), _off(slope, slope.widest))


def _off(slope: Slope, found: float) -> float:
    off = found - slope.expected
    if slope.may_fall and off < 0:
        off = min(0.0, off + 0.5)
    return abs(off)


def largest_difference(one: Sequence[Value], other: Sequence[Value]) -> tuple[float, str]:
    """Largest relative difference of the total changes in two measurements of the same models, and where."""
    table = {(v.step, v.module, v.d_model, v.seed): v.value for v in one if v.measure == "total"}
    worst, place = 0.0, ""
    for value in other:
        key = (value.step, value.module, value.d_model, value.seed)
        if value.measure == "total" and key in table:
            size = max(abs(table[key]), 1e-12)
            difference = abs(value.value - table[key]) / size
            if not difference <= worst:  # written so that NaN counts as the worst
                worst, place = difference, f"{value.module}, width {value.d_model}, step {value.step}"
    return worst, place
