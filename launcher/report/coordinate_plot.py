"""Plots of a coordinate check: magnitudes over width, and the exponents with their bounds."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.check.coordinates import BOUND, NUM_STEPS, Measure, Slope, fails, is_judged
from launcher.check.run_check import CheckResult, sharding_name
from launcher.report.figure import ACCENTS, GRID, INK, MUTED, new_page, sequential_colours

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PANELS: tuple[tuple[Measure, int, str], ...] = (
    ("init", 0, "output before training"),
    ("total", NUM_STEPS, f"change after {NUM_STEPS} steps"),
    ("own", NUM_STEPS, "change by its own parameters"),
)


def draw_coordinates(path: Path, result: CheckResult) -> Path:
    """Mean magnitude of a coordinate against width, one line per module; failing modules are named."""
    # Logarithmic on both axes: magnitude ~ width^x is a straight line of slope x, so a right rule is a flat
    # line and a wrong one is at once visible, whatever the magnitudes are.
    setting = result.setting
    modules = list(dict.fromkeys(slope.module for slope in result.slopes))
    colours = dict(zip(modules, sequential_colours(len(modules)), strict=True))
    with new_page(path, 1, len(_PANELS), (14.5, 5.0)) as (figure, panels):
        for panel, (measure, step, title) in zip(panels, _PANELS, strict=True):
            for slope in result.slopes:
                if (slope.measure, slope.step) == (measure, step) and min(slope.values) > 0:
                    _draw_line(panel, slope, setting.widths, colours[slope.module])
            panel.set_xscale("log", base=2)
            panel.set_yscale("log", base=2)
            panel.set_xticks(setting.widths, [str(width) for width in setting.widths])
            panel.set_title(title)
            panel.set_xlabel("width (d_model)")
        panels[0].set_ylabel("mean magnitude of a coordinate")
        # A legend of forty modules would fill the page. Colors run from the first to the last one, so two
        # suffice.
        for name in (modules[0], modules[-1]):
            panels[-1].plot([], [], "o-", color=colours[name], markersize=3, label=name)
        panels[-1].legend(title="from first to last", loc="center left", bbox_to_anchor=(1.0, 0.5))
        figure.suptitle(
            f"{setting.recipe.name}: flat is right ({setting.recipe.mup.type}, peak rates x "
            f"{setting.lr_amplification:.3g}, mean of {len(setting.seeds)} seeds)",
            x=0.01,
            ha="left",
            fontsize=12,
            fontweight="bold",
        )
    return path


def _draw_line(panel: "Axes", slope: Slope, widths: Sequence[int], colour: str) -> None:
    """One module; in red and with its exponent if that is out of bounds."""
    bad = fails(slope)
    colour = ACCENTS[1] if bad else colour
    panel.plot(widths, slope.values, "o-", color=colour, markersize=3, linewidth=1.8 if bad else 1.2)
    if bad:
        text = f"{slope.module} {slope.slope:+.2f}"
        place = (widths[-1], slope.values[-1])
        panel.annotate(
            text, place, xytext=(-2, 4), textcoords="offset points", fontsize=8, color=colour, ha="right"
        )


def draw_slopes(path: Path, result: CheckResult) -> Path:
    """Every module's exponents at the last step; values inside the band pass."""
    modules = list(dict.fromkeys(slope.module for slope in result.slopes))
    rows = {module: len(modules) - index for index, module in enumerate(modules)}
    kinds = [(result.slopes, measure, step, title) for measure, step, title in _PANELS]
    if result.sharded:
        title = f"change, {sharding_name(result.setting.recipe)}"
        kinds.append((result.sharded, "total", NUM_STEPS, title))
    marks, colours = ("o", "s", "D", "x"), (ACCENTS[0], ACCENTS[4], ACCENTS[2], INK)
    with new_page(path, 1, 1, (9.5, 1.6 + 0.24 * len(modules))) as (_, (panel,)):
        panel.axvspan(-BOUND, BOUND, color=GRID, alpha=0.6, linewidth=0, label=f"passes: within {BOUND:g}")
        panel.axvline(0.0, color=MUTED, linewidth=0.8)
        for (slopes, measure, step, title), mark, colour in zip(kinds, marks, colours, strict=False):
            shown = [
                slope
                for slope in slopes
                if (slope.measure, slope.step) == (measure, step) and _is_shown(slope)
            ]
            x, y = [slope.slope for slope in shown], [rows[slope.module] for slope in shown]
            panel.plot(x, y, mark, color=colour, markersize=5, label=title, linestyle="none")
        panel.set_yticks(list(rows.values()), list(rows), fontsize=8)
        panel.set_xlabel("exponent of width: magnitude ~ width^x")
        reach = 1.1 * max([0.25, *(abs(slope.slope) for slope in result.slopes if _is_shown(slope))])
        panel.set_xlim(-reach, reach)
        panel.set_title(f"{result.setting.recipe.name}: {'passed' if result.passed else 'FAILED'}")
        panel.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8)
    return path


def _is_shown(slope: Slope) -> bool:
    return is_judged(slope) and math.isfinite(slope.slope)
