"""The muTransfer picture: loss against learning rate, a curve per width, each width's optimum marked."""

import math
from collections.abc import Sequence
from pathlib import Path

from launcher.report.figure import INK, MUTED, new_figure, save_figure, sequential_colours
from launcher.sweep.transfer import Transfer

_NAMES = {"mup": "muP", "sp": "standard parametrisation (SP)", "umup": "u-muP"}


def draw_transfer(path: Path, transfers: Sequence[Transfer], loss_name: str) -> Path:
    """One panel per series with a common loss axis; bands are one standard error over seeds."""
    figure, panels = new_figure(1, len(transfers), (1.2 + 4.6 * len(transfers), 4.6), share_y=True)
    widths = sorted({width for transfer in transfers for width in transfer.losses})
    colours = dict(zip(widths, sequential_colours(len(widths)), strict=True))
    for panel, transfer in zip(panels, transfers, strict=True):
        for width, curve in transfer.losses.items():
            finite = [(math.log2(rate), mean) for rate, mean in curve.items() if math.isfinite(mean.value)]
            x = [rate for rate, _ in finite]
            y = [mean.value for _, mean in finite]
            panel.plot(x, y, "o-", color=colours[width], markersize=3.5, label=str(width))
            if all(math.isfinite(mean.error) for _, mean in finite):
                low = [mean.value - mean.error for _, mean in finite]
                high = [mean.value + mean.error for _, mean in finite]
                panel.fill_between(x, low, high, color=colours[width], alpha=0.18, linewidth=0)
        for optimum in transfer.optima:
            error = optimum.lr_log2.error
            panel.errorbar(
                optimum.lr_log2.value,
                optimum.loss.value,
                xerr=error if math.isfinite(error) else None,
                fmt="*",
                color=colours[optimum.d_model],
                markeredgecolor=INK,
                markeredgewidth=0.7,
                markersize=14,
                ecolor=INK,
                elinewidth=1,
                capsize=2,
                zorder=5,
            )
        panel.set_title(_title(transfer))
        panel.set_xlabel("log2 of the peak learning rate")
        panel.tick_params(labelleft=True)
    panels[0].set_ylabel(f"{loss_name} (nats per token)")
    panels[0].set_ylim(*_loss_limits(transfers))
    panels[-1].legend(title="d_model", loc="upper right", ncols=2 if len(widths) > 4 else 1)
    figure.text(
        0.995,
        0.002,
        "star: optimum (parabola through the best rate and its neighbours); bands, bars: 1 s.e. over seeds",
        ha="right",
        va="bottom",
        fontsize=7.5,
        color=MUTED,
    )
    figure.get_layout_engine().set(rect=(0, 0.035, 1, 0.965))  # type: ignore[union-attr, call-arg]
    return save_figure(figure, path)


def _title(transfer: Transfer) -> str:
    name = _NAMES.get(transfer.series, transfer.series) or "loss against learning rate"
    if len(transfer.optima) < 2:
        return name
    spread = transfer.shift.half_width
    noise = f" ± {spread:.2f}" if math.isfinite(spread) else ""
    return f"{name}\noptimum shifts {transfer.shift.value:+.2f}{noise} octaves"


def _loss_limits(transfers: Sequence[Transfer]) -> tuple[float, float]:
    """The best losses and the middle of the rest: a few diverging points must not flatten the picture."""
    losses = sorted(
        mean.value
        for transfer in transfers
        for curve in transfer.losses.values()
        for mean in curve.values()
        if math.isfinite(mean.value)
    )
    low, high = losses[0], losses[min(len(losses) - 1, int(0.95 * len(losses)))]
    margin = 0.05 * (high - low) or 0.1
    return low - margin, high + margin
