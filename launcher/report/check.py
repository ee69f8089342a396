"""Pictures of a coordinate check: magnitudes over width, and the exponents against their bounds."""

import math
from collections.abc import Sequence
from pathlib import Path

from launcher.check.coordinates import BOUND, NUM_STEPS, Measure, fails, is_judged
from launcher.check.run import CheckResult, sharding_name
from launcher.report.figure import ACCENTS, GRID, INK, MUTED, new_figure, save_figure, sequential_colours

_PANELS: tuple[tuple[Measure, int, str], ...] = (
    ("init", 0, "output before training"),
    ("total", NUM_STEPS, f"change after {NUM_STEPS} steps"),
    ("own", NUM_STEPS, "change by its own parameters"),
)


def draw_coordinates(path: Path, result: CheckResult) -> Path:
    """Mean magnitude of a coordinate against width, one line a module; failing ones are named."""
    widths = result.setting.widths
    figure, panels = new_figure(1, len(_PANELS), (13.5, 4.8))
    modules = list(dict.fromkeys(slope.module for slope in result.slopes))
    colours = dict(zip(modules, sequential_colours(len(modules)), strict=True))
    for panel, (measure, step, title) in zip(panels, _PANELS, strict=True):
        for slope in result.slopes:
            if (slope.measure, slope.step) != (measure, step) or not min(slope.values) > 0:
                continue
            bad = fails(slope)
            colour = ACCENTS[1] if bad else colours[slope.module]
            panel.plot(widths, slope.values, "o-", color=colour, markersize=3, alpha=1.0 if bad else 0.75)
            if bad:
                text = f" {slope.module} {slope.slope:+.2f}"
                panel.annotate(text, (widths[-1], slope.values[-1]), fontsize=7.5, color=colour, va="center")
        panel.set_xscale("log", base=2)
        panel.set_yscale("log", base=2)
        panel.set_xticks(widths, [str(width) for width in widths])
        panel.set_title(title)
        panel.set_xlabel("width (d_model)")
    panels[0].set_ylabel("mean magnitude of a coordinate")
    _colour_key(panels[0], modules, colours)
    recipe = result.setting.recipe
    figure.suptitle(
        f"{recipe.name}: flat lines are right ({recipe.mup.type}, rates x {result.setting.lr_factor:g}, "
        f"{len(result.setting.seeds)} seeds)",
        x=0.01,
        ha="left",
        fontsize=12,
        fontweight="bold",
    )
    return save_figure(figure, path)


def _colour_key(panel: object, modules: Sequence[str], colours: dict[str, str]) -> None:
    """Which end of the colours is the input."""
    from matplotlib.axes import Axes

    assert isinstance(panel, Axes), "panels are axes"
    for name in (modules[0], modules[-1]):
        panel.plot([], [], "o-", color=colours[name], markersize=3, label=name)
    panel.legend(title="from first to last module", loc="best", fontsize=8, title_fontsize=8)


def draw_slopes(path: Path, result: CheckResult) -> Path:
    """Every module's exponents at the last step; the band is what passes."""
    modules = list(dict.fromkeys(slope.module for slope in result.slopes))
    rows = {module: len(modules) - index for index, module in enumerate(modules)}
    figure, (panel,) = new_figure(1, 1, (8.5, 1.6 + 0.24 * len(modules)))
    panel.axvspan(-BOUND, BOUND, color=GRID, alpha=0.6, linewidth=0, label=f"bound ±{BOUND:g}")
    panel.axvline(0.0, color=MUTED, linewidth=0.8)
    kinds = [(result.slopes, measure, step, title) for measure, step, title in _PANELS]
    if result.sharded:
        title = f"change, {sharding_name(result.setting.recipe)}"
        kinds.append((result.sharded, "total", NUM_STEPS, title))
    marks, colours = ("o", "s", "D", "x"), (ACCENTS[0], ACCENTS[4], ACCENTS[2], INK)
    for (slopes, measure, step, title), mark, colour in zip(kinds, marks, colours, strict=False):
        shown = [
            slope
            for slope in slopes
            if (slope.measure, slope.step) == (measure, step)
            and is_judged(slope)
            and math.isfinite(slope.slope)
        ]
        x, y = [slope.slope for slope in shown], [rows[slope.module] for slope in shown]
        panel.plot(x, y, mark, color=colour, markersize=5, label=title, linestyle="none")
    panel.set_yticks(list(rows.values()), list(rows), fontsize=8)
    panel.set_xlabel("exponent of width: magnitude ~ width^x")
    reach = max([0.25, *(abs(line) for line in _reach(result))]) * 1.1
    panel.set_xlim(-reach, reach)
    panel.set_title(f"{result.setting.recipe.name}: {'passed' if result.passed else 'FAILED'}")
    panel.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8)
    return save_figure(figure, path)


def _reach(result: CheckResult) -> list[float]:
    return [slope.slope for slope in result.slopes if is_judged(slope) and math.isfinite(slope.slope)]
