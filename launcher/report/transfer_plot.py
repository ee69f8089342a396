"""The muTransfer plot: loss against a rate or another value, one curve per width, with the optimum of each.

And of every key that a sweep has tried at three values or more, all points: what a random search has seen.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.report.figure import INK, MUTED, new_page, sequential_colours
from launcher.sweep.results import PointResult
from launcher.sweep.transfer import RATE, Mean, Optimum, Transfer, at_key, numeric_keys

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS = 4
_AXES = {RATE: "log2 of the peak learning rate"}
_NAMES = {"mup": "muP", "sp": "standard parametrization (SP)", "umup": "u-muP"}


def draw_transfer(path: Path, transfers: Sequence[Transfer], loss_name: str) -> Path:
    """One panel per series with a common loss axis; bands are 1 standard error over seeds."""
    widths = sorted({width for transfer in transfers for width in transfer.losses})
    colours = dict(zip(widths, sequential_colours(len(widths)), strict=True))
    size = (2.2 + 4.8 * len(transfers), 4.8)
    with new_page(path, 1, len(transfers), size, share_y=True) as (figure, panels):
        for panel, transfer in zip(panels, transfers, strict=True):
            for width, curve in transfer.losses.items():
                _draw_curve(panel, curve, colours[width], str(width))
            for optimum in transfer.optima:
                _draw_optimum(panel, optimum, colours[optimum.d_model])
            panel.set_title(_title(transfer))
            panel.set_xlabel(_AXES.get(transfer.key, f"log2 of {transfer.key}"))
            panel.set_xlim(*_limits_of([one for one in transfers if one.key == transfer.key]))
            panel.tick_params(labelleft=True)
        panels[0].set_ylabel(f"{loss_name} (nats per token)")
        panels[0].set_ylim(*_loss_limits(transfers))
        panels[-1].legend(title="width (d_model)", loc="upper left", bbox_to_anchor=(1.0, 1.0))
        note = (
            "star: vertex of the parabola through the best value and its neighbours; "
            "bands 1 s.e., bars 95 % of resampled seeds"
        )
        figure.supxlabel(note, x=0.995, ha="right", fontsize=7.5, color=MUTED)
    return path


def draw_values(path: Path, results: Sequence[PointResult], loss_name: str) -> Path:
    """One panel per key: every point's loss against its value, one colour per width, a star at the best."""
    keys = numeric_keys(results)
    widths = sorted({result.d_model for result in results})
    colours = dict(zip(widths, sequential_colours(len(widths)), strict=True))
    ended = [result for result in results if math.isfinite(result.loss)]
    rows = -(-len(keys) // _COLUMNS)
    columns = min(len(keys), _COLUMNS)
    with new_page(path, rows, columns, (1.6 + 4.2 * columns, 3.8 * rows), share_y=True) as (_, panels):
        for panel, key in zip(panels, keys, strict=False):
            for width in widths:
                found = [r for r in at_key(key, ended) if r.d_model == width]
                x, y = [math.log2(r.lr) for r in found], [r.loss for r in found]
                panel.plot(x, y, "o", color=colours[width], markersize=3.5, alpha=0.7, label=str(width))
                if found:
                    best = min(found, key=lambda r: r.loss)
                    place = (math.log2(best.lr), best.loss)
                    panel.plot(*place, "*", color=colours[width], markeredgecolor=INK, markersize=13)
            panel.set_xlabel(f"log2 of {key}")
            panel.tick_params(labelleft=True)
        for panel in panels[len(keys) :]:
            panel.set_visible(False)
        panels[0].set_ylabel(f"{loss_name} (nats per token)")
        panels[0].set_ylim(*_bounds([result.loss for result in ended]))
        panels[0].legend(title="width (d_model)")
    return path


def _draw_curve(panel: "Axes", curve: Mapping[float, Mean], colour: str, label: str) -> None:
    """Losses with their band, without rates at which a seed diverged."""
    finite = [(math.log2(rate), mean) for rate, mean in curve.items() if math.isfinite(mean.value)]
    x, y = [rate for rate, _ in finite], [mean.value for _, mean in finite]
    panel.plot(x, y, "o-", color=colour, markersize=3.5, label=label)
    if all(math.isfinite(mean.error) for _, mean in finite):
        low = [mean.value - mean.error for _, mean in finite]
        high = [mean.value + mean.error for _, mean in finite]
        panel.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)


def _draw_optimum(panel: "Axes", optimum: Optimum, colour: str) -> None:
    """A star at the best value, with its interval."""
    centre, (low, high) = optimum.log2_value.value, optimum.interval
    known = math.isfinite(low)
    panel.errorbar(
        centre,
        optimum.loss.value,
        xerr=([max(centre - low, 0)], [max(high - centre, 0)]) if known else None,
        fmt="*",
        color=colour,
        markeredgecolor=INK,
        markeredgewidth=0.7,
        markersize=14,
        ecolor=INK,
        elinewidth=1,
        capsize=2,
        zorder=5,
    )


def _title(transfer: Transfer) -> str:
    name = _NAMES.get(transfer.series, transfer.series) or f"loss against {transfer.key}"
    if len(transfer.optima) < 2:
        return name
    low, high = transfer.shift_interval
    noise = f" ({low:+.2f} to {high:+.2f})" if math.isfinite(low) else ""
    return f"{name}\noptimum shifts {transfer.shift.value:+.2f}{noise} octaves"


def _loss_limits(transfers: Sequence[Transfer]) -> tuple[float, float]:
    """From the lowest loss to the 95 % quantile: a few diverging points must not flatten the curves."""
    # What is to be seen are differences of hundredths near the minima. One loss of 8 among losses of 2 would
    # take nearly all of the axis.
    return _bounds(
        [
            mean.value
            for transfer in transfers
            for curve in transfer.losses.values()
            for mean in curve.values()
            if math.isfinite(mean.value)
        ]
    )


def _bounds(values: Sequence[float]) -> tuple[float, float]:
    losses = sorted(values)
    low, high = losses[0], losses[min(len(losses) - 1, int(0.95 * len(losses)))]
    margin = 0.05 * (high - low) or 0.1
    return low - margin, high + margin


def _limits_of(transfers: Sequence[Transfer]) -> tuple[float, float]:
    """The same range of rates in every panel, so that shifts can be compared by eye."""
    rates = [
        math.log2(rate) for transfer in transfers for curve in transfer.losses.values() for rate in curve
    ]
    return min(rates) - 0.3, max(rates) + 0.3
