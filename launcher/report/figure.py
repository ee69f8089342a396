"""Figures in one style, with colors that color-blind readers can distinguish. The base of all plots."""

import contextlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher.errors import Problem, UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, GRID = "#222222", "#666666", "#dddddd"
ACCENTS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Colors of Okabe and Ito (jfly.uni-koeln.de/color), distinct under every common color blindness."""

_STYLE: dict[str, Any] = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "text.color": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "savefig.dpi": 150,
}


@contextlib.contextmanager
def _styled(settings: Any) -> Iterator[None]:
    """Set our style while a figure is drawn: labels and legends read it when they are created."""
    before = {key: settings[key] for key in _STYLE}
    settings.update(_STYLE)
    try:
        yield
    finally:
        settings.update(before)


def can_draw() -> bool:
    """Whether matplotlib is installed (the `plot` extra)."""
    return importlib.util.find_spec("matplotlib") is not None


@contextlib.contextmanager
def new_page(
    path: Path, rows: int, columns: int, size: tuple[float, float], *, share_y: bool = False
) -> Iterator[tuple["Figure", list["Axes"]]]:
    """A figure and its rows x columns panels in reading order; written as a PNG at the end of the block.

    Raises UserError without matplotlib.
    """
    if not can_draw():
        raise UserError(Problem("pictures", "matplotlib is not installed", "pip install 'mulaunch[plot]'"))
    from matplotlib import rcParams
    from matplotlib.figure import Figure

    with _styled(rcParams):
        # Not pyplot: it keeps every figure in global state, and may look for a window system on a cluster
        # node.
        figure = Figure(figsize=size, layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False, sharey=share_y)
        yield figure, list(panels.flat)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)


def sequential_colours(count: int) -> list[str]:
    """Colors for an ordered quantity such as width: light to dark, readable on white and in gray."""
    if not can_draw():
        return [INK] * count
    from matplotlib import colormaps, colors

    scale = colormaps["viridis_r"]
    # The first 12 % of the scale are too light for lines on white.
    return [colors.to_hex(scale(0.12 + 0.88 * i / max(1, count - 1))) for i in range(count)]
