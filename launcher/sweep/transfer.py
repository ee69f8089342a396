"""Whether rates and multipliers carry over, from a sweep over widths. Pure arithmetic, torch-free."""

import dataclasses
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from launcher.sweep.axes import CROSSED
from launcher.sweep.results import PointResult

_T95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
"""Two-sided 95 % quantiles of Student's t by degrees of freedom; 2 for more than 9."""

RATE = "optim.lr"
_RESAMPLED = 1000
"""Times that seeds are drawn again, for an interval."""
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
    """The best learning rate, or other value, of one width."""

    d_model: int
    log2_value: Mean
    """log2 of the vertex of the parabola through each seed's best value and its two neighbors."""
    interval: tuple[float, float]
    """95 % bootstrap interval over seeds of the vertex of the mean curve, in log2; NaN for one seed."""
    grid_value: float
    """The value on the grid with the lowest mean loss over seeds."""
    loss: Mean
    """At that rate."""
    num_at_edge: int
    """Seeds whose best rate is the first or last one tried: their optimum may be outside of the grid."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """One series: points that differ only in width, seed and the value of one key."""

    series: str
    key: str
    losses: Mapping[int, Mapping[float, Mean]]
    """Width -> learning rate -> loss over seeds; infinite if any seed diverged."""
    optima: tuple[Optimum, ...]
    shift: Mean
    """Octaves from the narrowest width's optimum to the widest's, paired by seed."""
    shift_interval: tuple[float, float]
    """95 % bootstrap interval of that, of mean curves over the same seeds at both widths."""
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
    """One Transfer for each series with three rates at one width or more; of every other key, one for the
    series with the lowest loss at the largest width."""
    ended = [result for result in results if result.status in ("finished", "diverged")]
    found = [find_transfer(name, members) for name, members in _by_series(ended).items()]
    found += [_of_key(key, ended) for key in numeric_keys(ended) if key != RATE]
    return tuple(transfer for transfer in found if transfer is not None)


def numeric_keys(results: Sequence[PointResult]) -> list[str]:
    """Keys with at least three values, all of them positive numbers; not width and seed."""
    values: dict[str, set[str]] = {}
    for result in results:
        for key, value in result.settings.items():
            values.setdefault(key, set()).add(value)
    return [
        key
        for key, found in values.items()
        if len(found) >= 3 and key not in CROSSED and all(map(_is_positive, found))
    ]


def at_key(key: str, results: Sequence[PointResult]) -> Iterator[PointResult]:
    """Results with a value of a key in the place of the rate."""
    for result in results:
        if key == RATE:
            yield result
        elif key in result.settings:
            others = [f"{k}={v}" for k, v in result.settings.items() if k not in (*CROSSED, key)]
            yield dataclasses.replace(result, lr=float(result.settings[key]), series=", ".join(others))


def _of_key(key: str, results: Sequence[PointResult]) -> Transfer | None:
    series = _by_series(list(at_key(key, results)))
    found = [find_transfer(name, members, key) for name, members in series.items()]
    usable = [
        transfer for transfer in found if transfer is not None and math.isfinite(_widest_loss(transfer))
    ]
    return min(usable, key=_widest_loss, default=None)


def _widest_loss(transfer: Transfer) -> float:
    return transfer.optima[-1].loss.value


def _by_series(results: Sequence[PointResult]) -> dict[str, list[PointResult]]:
    series: dict[str, list[PointResult]] = {}
    for result in results:
        series.setdefault(result.series, []).append(result)
    return series


def _is_positive(text: str) -> bool:
    try:
        return float(text) > 0
    except ValueError:
        return False


def find_transfer(series: str, results: Sequence[PointResult], key: str = RATE) -> Transfer | None:
    """The transfer of one series; None if no seed of any width has losses at three values."""
    table: dict[int, dict[int, dict[float, float]]] = {}  # width -> seed -> rate -> loss
    for result in results:
        table.setdefault(result.d_model, {}).setdefault(result.seed, {})[result.lr] = result.loss
    vertices: dict[int, dict[int, float]] = {}
    optima: list[Optimum] = []
    usable = {
        d_model: {seed: curve for seed, curve in table[d_model].items() if _is_usable(curve)}
        for d_model in sorted(table)
    }
    usable = {d_model: curves for d_model, curves in usable.items() if curves}
    intervals, shift_interval = _bootstrap(usable)
    for d_model, curves in usable.items():
        vertices[d_model] = {seed: find_vertex(curve) for seed, curve in curves.items()}
        means = _mean_curve(curves)
        best = min(means, key=lambda lr: means[lr].value)
        optima.append(
            Optimum(
                d_model=d_model,
                log2_value=mean_of(list(vertices[d_model].values())),
                interval=intervals[d_model],
                grid_value=best,
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
    centres = [optimum.log2_value.value for optimum in optima]
    # The question is practical: how much does the widest model lose at the rate tuned on the narrowest? A
    # flat optimum may shift by half an octave and cost nothing.
    transferred = losses[last.d_model].get(first.grid_value)
    pairs = _neighbour_pairs(results, first.grid_value)
    return Transfer(
        series=series,
        key=key,
        losses=losses,
        optima=tuple(optima),
        shift=mean_of([vertices[last.d_model][s] - vertices[first.d_model][s] for s in sorted(paired)]),
        shift_interval=shift_interval,
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


def _bootstrap(
    curves: Mapping[int, Mapping[int, Mapping[float, float]]],
) -> tuple[dict[int, tuple[float, float]], tuple[float, float]]:
    """95 % intervals of the vertex at each width and of its shift, from seeds drawn with replacement."""
    # The vertex of the mean curve, and not the mean of vertices: a seed whose best value is at the edge of
    # the grid has no vertex of its own. The same seeds at every width, which have read the same batches.
    nothing = (math.nan, math.nan)
    seeds = sorted(set.intersection(*(set(of_width) for of_width in curves.values()))) if curves else []
    if len(seeds) < 2:
        return dict.fromkeys(curves, nothing), nothing
    generator = random.Random(0)
    found: dict[int, list[float]] = {d_model: [] for d_model in curves}
    for _ in range(_RESAMPLED):
        drawn = generator.choices(seeds, k=len(seeds))
        for d_model, of_width in curves.items():
            found[d_model].append(find_vertex(_mean_losses([of_width[seed] for seed in drawn])))
    first, last = min(found), max(found)
    shifts = [wide - narrow for narrow, wide in zip(found[first], found[last], strict=True)]
    return {d_model: _middle(values) for d_model, values in found.items()}, _middle(shifts)


def _mean_losses(curves: Sequence[Mapping[float, float]]) -> dict[float, float]:
    rates = set.intersection(*(set(curve) for curve in curves))
    return {rate: fmean(curve[rate] for curve in curves) for rate in rates}


def _middle(values: Sequence[float]) -> tuple[float, float]:
    ordered, outside = sorted(values), round(0.025 * len(values))
    return ordered[outside], ordered[-1 - outside]


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


def claim(transfer: Transfer) -> str:
    """Whether the optimum moves by at most an octave, as far as the interval of its shift decides it."""
    low, high = transfer.shift_interval
    if low >= -1 and high <= 1:
        return "at most one octave: yes"
    return "at most one octave: NO" if low > 1 or high < -1 else "at most one octave: not decided"


def transfer_lines(transfer: Transfer) -> list[str]:
    """The verdicts as sentences."""
    first, last = transfer.optima[0], transfer.optima[-1]
    label, short = f"{transfer.series}: " if transfer.series else "", transfer.key.rsplit(".", 1)[-1]
    lines = []
    if last.d_model > first.d_model:
        spread = transfer.shift.half_width
        noise = f" +- {spread:.2f} (95 %, {transfer.shift.count} seeds)" if math.isfinite(spread) else ""
        lines.append(
            f"{label}optimum of {short} moves {transfer.shift.value:+.2f}{noise} octaves from width "
            f"{first.d_model} to {last.d_model}; {transfer.range_octaves:.2f} between any two widths"
        )
        if math.isfinite(transfer.shift_interval[0]):
            low, high = transfer.shift_interval
            lines.append(
                f"{label}95 % of resampled seeds: {low:+.2f} to {high:+.2f} octaves; {claim(transfer)}"
            )
        lines.append(
            f"{label}width {last.d_model} at width {first.d_model}'s best {short} {first.grid_value:.4g} is "
            f"{transfer.regret:.4f} above its own best {last.loss.value:.4f} ({short} {last.grid_value:.4g})"
        )
        worse, total = transfer.worse_steps
        verdict = "yes" if transfer.wider_is_better else "NO"
        lines.append(
            f"{label}wider is better at {short} {first.grid_value:.4g}: {verdict}; during training the "
            f"wider of two neighbors is worse at {worse} of {total} logged points"
        )
    edges = [str(optimum.d_model) for optimum in transfer.optima if optimum.num_at_edge]
    if edges:
        lines.append(
            f"{label}the best {short} is the lowest or highest one tried at width {', '.join(edges)}: "
            "the optimum may be outside; add values"
        )
    return lines
