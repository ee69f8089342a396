"""Whether learning rates transfer, from a sweep over widths and rates. Pure arithmetic, torch-free."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from launcher.sweep.results import PointResult

_T95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
"""Two-sided 95 % quantiles of Student's t by degrees of freedom; 2 for more than 9."""

_NOISE = 2.0
"""A difference counts if it exceeds this many standard errors over seeds."""


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean over seeds with its standard error (NaN for one seed)."""

    value: float
    error: float
    count: int

    @property
    def half_width(self) -> float:
        """Half of the 95 % confidence interval."""
        return _T95.get(self.count - 1, 2.0) * self.error if self.count > 1 else math.nan


@dataclass(frozen=True, slots=True)
class Optimum:
    """The best learning rate of one width."""

    d_model: int
    lr_log2: Mean
    """log2 of the vertex of the parabola through each seed's best rate and its two neighbors."""
    grid_lr: float
    """The rate on the grid with the lowest mean loss over seeds."""
    loss: Mean
    """At that rate."""
    num_at_edge: int
    """Seeds whose best rate is the first or last one tried: their optimum may be outside of the grid."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """One series: points that differ only in width, learning rate and seed."""

    series: str
    losses: Mapping[int, Mapping[float, Mean]]
    """Width -> learning rate -> loss over seeds; infinite if any seed diverged."""
    optima: tuple[Optimum, ...]
    shift: Mean
    """Octaves from the narrowest width's optimum to the widest's, paired by seed."""
    range_octaves: float
    """Largest distance between the optima of any two widths."""
    regret: float
    """Loss of the widest model at the narrowest model's grid optimum, minus that at its own."""
    wider_is_better: bool
    """At the narrowest model's grid optimum, no final loss is above that of the next narrower width, beyond
    noise."""
    worse_steps: tuple[int, int]
    """At that rate, of all pairs (logged step, neighboring widths): those where the wider is worse beyond
    noise, and all."""


def find_transfers(results: Sequence[PointResult]) -> tuple[Transfer, ...]:
    """One Transfer for each series with three rates at one width or more."""
    series: dict[str, list[PointResult]] = {}
    for result in results:
        if result.status in ("finished", "diverged"):
            series.setdefault(result.series, []).append(result)
    found = [find_transfer(name, members) for name, members in series.items()]
    return tuple(transfer for transfer in found if transfer is not None)


def find_transfer(series: str, results: Sequence[PointResult]) -> Transfer | None:
    """The transfer of one series; None if no seed of any width has losses at three rates."""
    table: dict[int, dict[int, dict[float, float]]] = {}  # width -> seed -> rate -> loss
    for result in results:
        table.setdefault(result.d_model, {}).setdefault(result.seed, {})[result.lr] = result.loss
    vertices: dict[int, dict[int, float]] = {}
    optima: list[Optimum] = []
    for d_model in sorted(table):
        curves = {seed: curve for seed, curve in table[d_model].items() if _is_usable(curve)}
        if not curves:
            continue
        vertices[d_model] = {seed: find_vertex(curve) for seed, curve in curves.items()}
        means = _mean_curve(curves)
        best = min(means, key=lambda lr: means[lr].value)
        optima.append(
            Optimum(
                d_model=d_model,
                lr_log2=mean_of(list(vertices[d_model].values())),
                grid_lr=best,
                loss=means[best],
                num_at_edge=sum(_is_at_edge(curve) for curve in curves.values()),
            )
        )
    if not optima:
        return None
    losses = {d_model: _mean_curve(table[d_model]) for d_model in sorted(table)}
    first, last = optima[0], optima[-1]
    # Paired by seed: both widths read the same batches, so their common noise cancels.
    paired = set(vertices[first.d_model]) & set(vertices[last.d_model])
    centres = [optimum.lr_log2.value for optimum in optima]
    # The question is practical: how much does the widest model lose at the rate tuned on the narrowest? A
    # flat optimum may shift by half an octave and cost nothing.
    transferred = losses[last.d_model].get(first.grid_lr)
    pairs = _neighbour_pairs(results, first.grid_lr)
    return Transfer(
        series=series,
        losses=losses,
        optima=tuple(optima),
        shift=mean_of([vertices[last.d_model][s] - vertices[first.d_model][s] for s in sorted(paired)]),
        range_octaves=max(centres) - min(centres),
        regret=transferred.value - last.loss.value if transferred else math.nan,
        wider_is_better=not any(
            _is_worse([wide.loss - narrow.loss for narrow, wide in pair]) for pair in pairs
        ),
        worse_steps=_count_worse_steps(pairs),
    )


def mean_of(values: Sequence[float]) -> Mean:
    """Mean and standard error."""
    if not values:
        return Mean(math.nan, math.nan, 0)
    # A rate at which one seed diverges is not usable, however good the others are.
    if not all(map(math.isfinite, values)):
        return Mean(math.inf, math.nan, len(values))
    error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return Mean(fmean(values), error, len(values))


def find_vertex(curve: Mapping[float, float]) -> float:
    """log2 of the best rate: the vertex of the parabola through the lowest point and its neighbours.

    The lowest point itself if it is the first or last one, or has a neighbor that diverged.
    Losses 3, 2, 2.5 at log2 rates -10, -9, -8 give slopes -1 and 0.5, hence -0.25 at -9, and the vertex at
    -9 + 0.25 * 2 / (2 * 1.5) = -8.83.
    """
    # The grid alone would give the optimum in steps of an octave, coarser than the shifts that are to be
    # measured. In log2, because losses are about parabolas there and not in the rate itself.
    rates = sorted(curve)
    best = min(range(len(rates)), key=lambda i: curve[rates[i]])
    x = [math.log2(rate) for rate in rates]
    if best in (0, len(rates) - 1):
        return x[best]
    left, low, right = (curve[rates[i]] for i in (best - 1, best, best + 1))
    if not all(map(math.isfinite, (left, low, right))):
        return x[best]
    before, after = x[best] - x[best - 1], x[best + 1] - x[best]
    down, up = (low - left) / before, (right - low) / after
    if up <= down:
        return x[best]  # three equal losses
    # The slope at the middle point is the mean of both sides, each weighted by the length of the other, so
    # that the nearer neighbor has more weight. From there it changes at a constant rate, and is 0 at the
    # vertex.
    slope = (down * after + up * before) / (before + after)
    return x[best] - slope * (before + after) / (2 * (up - down))


def _is_usable(curve: Mapping[float, float]) -> bool:
    return len(curve) >= 3 and any(map(math.isfinite, curve.values()))


def _is_at_edge(curve: Mapping[float, float]) -> bool:
    rates = sorted(curve)
    return min(rates, key=lambda rate: curve[rate]) in (rates[0], rates[-1])


def _mean_curve(curves: Mapping[int, Mapping[float, float]]) -> dict[float, Mean]:
    rates = sorted({rate for curve in curves.values() for rate in curve})
    return {rate: mean_of([curve[rate] for curve in curves.values() if rate in curve]) for rate in rates}


Pair = list[tuple[PointResult, PointResult]]
"""(narrower, wider) for each seed that has both; such runs read the same batches in the same order."""


def _neighbour_pairs(results: Sequence[PointResult], lr: float) -> list[Pair]:
    at = {(result.d_model, result.seed): result for result in results if result.lr == lr}
    widths = sorted({d_model for d_model, _ in at})
    seeds = sorted({seed for _, seed in at})
    return [
        [(at[narrow, s], at[wide, s]) for s in seeds if (narrow, s) in at and (wide, s) in at]
        for narrow, wide in zip(widths, widths[1:], strict=False)
    ]


def _is_worse(differences: Sequence[float]) -> bool:
    """Whether the wider model's loss is higher, beyond the noise over seeds if there are several."""
    if any(math.isnan(d) for d in differences):
        return False  # both diverged: infinity minus infinity
    # With one seed there is no error to compare with, and any difference counts.
    mean = mean_of(differences)
    return mean.value > (_NOISE * mean.error if mean.count > 1 else 0.0)


def _count_worse_steps(pairs: Sequence[Pair]) -> tuple[int, int]:
    worse = total = 0
    for pair in pairs:
        curves = [
            (dict(zip(n.steps, n.losses, strict=True)), dict(zip(w.steps, w.losses, strict=True)))
            for n, w in pair
        ]
        steps = set.intersection(*(set(n) & set(w) for n, w in curves)) if curves else set()
        for step in sorted(steps):
            total += 1
            worse += _is_worse([wide[step] - narrow[step] for narrow, wide in curves])
    return worse, total


def transfer_lines(transfer: Transfer) -> list[str]:
    """The verdicts as sentences."""
    first, last = transfer.optima[0], transfer.optima[-1]
    label = f"{transfer.series}: " if transfer.series else ""
    lines = []
    if last.d_model > first.d_model:
        spread = transfer.shift.half_width
        noise = f" +- {spread:.2f} (95 %, {transfer.shift.count} seeds)" if math.isfinite(spread) else ""
        lines.append(
            f"{label}optimum moves {transfer.shift.value:+.2f}{noise} octaves from width {first.d_model} to "
            f"{last.d_model}; {transfer.range_octaves:.2f} between any two widths"
        )
        lines.append(
            f"{label}width {last.d_model} at width {first.d_model}'s best rate {first.grid_lr:.4g} is "
            f"{transfer.regret:.4f} above its own best {last.loss.value:.4f} (lr {last.grid_lr:.4g})"
        )
        worse, total = transfer.worse_steps
        verdict = "yes" if transfer.wider_is_better else "NO"
        lines.append(
            f"{label}wider is better at lr {first.grid_lr:.4g}: {verdict}; during training the wider of two "
            f"neighbors is worse at {worse} of {total} logged points"
        )
    edges = [str(optimum.d_model) for optimum in transfer.optima if optimum.num_at_edge]
    if edges:
        lines.append(
            f"{label}the best rate is the lowest or highest one tried at width {', '.join(edges)}: "
            "the optimum may be outside; add rates"
        )
    return lines
