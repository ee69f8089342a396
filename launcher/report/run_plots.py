"""The pictures of a report: curves over steps, flow through layers, and where the time went."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from launcher.report.figure import ACCENTS, INK, MUTED, new_page, sequential_colours
from launcher.report.run_facts import RunFacts
from launcher.track.history import History, spread
from launcher.track.ledger import PARTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_POINTS: Final = 2000
"""Beyond it, a curve is drawn as the mean of neighbours, within the band of their extremes."""
_FLOW: Final = 300
"""Columns of a map of layers."""
_WIDE: Final = (11.0, 4.0)
_RED: Final = "#b2182b"
Line = Mapping[str, Any]


def draw_loss(path: Path, facts: RunFacts) -> Path:
    """Training and validation loss; what does not count any longer in red; where attempts begin."""
    history = facts.history
    with new_page(path, 1, 1, _WIDE) as (_, (panel,)):
        _draw_curve(panel, history.columns["step"], history.columns["loss"], ACCENTS[0], "training")
        lost = history.lost
        panel.plot(
            lost["step"],
            lost["loss"],
            ".",
            color=_RED,
            markersize=2.5,
            label="trained again" if len(lost["step"]) else "",
        )
        found = history.validations
        if found:
            x, y = [one["step"] for one in found], [one["loss"] for one in found]
            panel.plot(x, y, "o-", color=INK, markersize=3, linewidth=1, label="validation")
        _mark_events(panel, history)
        _limit(panel, [history.columns["loss"], np.array([one["loss"] for one in found])])
        panel.set_ylabel("loss (nats a token)")
        panel.set_xlabel("step")
        panel.legend(loc="upper right")
    return path


def draw_gradients(path: Path, facts: RunFacts) -> Path:
    """Norm before clipping, and the share of steps that were clipped."""
    history = facts.history
    steps = history.columns["step"]
    limit = facts.recipe.optim.grad_clip
    with new_page(path, 2, 1, (11.0, 5.4)) as (_, (norms, clipped)):
        _draw_curve(norms, steps, history.columns["grad_norm"], ACCENTS[0], "norm before clipping")
        if limit is not None:
            norms.axhline(limit, color=MUTED, linewidth=1, linestyle="--", label=f"clipped at {limit:g}")
        _mark_events(norms, history)
        values = history.columns["grad_norm"]
        if np.any(np.isfinite(values) & (values > 0)):
            norms.set_yscale("log")
        norms.set_ylabel("gradient norm")
        norms.legend(loc="upper right")
        _draw_curve(clipped, steps, history.columns["clip_fraction"], ACCENTS[1], "")
        clipped.set_ylim(-0.03, 1.03)
        clipped.set_ylabel("share of steps clipped")
        clipped.set_xlabel("step")
    return path


def draw_rates(path: Path, samples: Sequence[Line]) -> Path:
    """Rate of each group of parameters, as the optimizer held it."""
    names = list(samples[-1]["lr_group"])
    with new_page(path, 1, 1, _WIDE) as (_, (panel,)):
        for name, colour in zip(names, sequential_colours(len(names)), strict=True):
            panel.plot(*_series(samples, "lr_group", name), color=colour, linewidth=1.3, label=name)
        panel.set_yscale("log")
        panel.set_ylabel("learning rate")
        panel.set_xlabel("step")
        panel.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)
    return path


def draw_speed(path: Path, samples: Sequence[Line]) -> Path:
    """Tokens a second, the share of a step spent waiting for data, and what else was measured."""
    panels: list[tuple[str, Callable[[Line], float | None]]] = [
        ("tokens a second", lambda line: line["tokens_per_s"]),
        ("share of a step waiting for data", lambda line: line["data_wait_s"] / line["step_time_s"]),
        ("model FLOPs utilization", lambda line: line.get("mfu")),
        ("memory of a device (GB)", lambda line: line.get("memory_gb")),
        ("memory held by the allocator (GB)", lambda line: line.get("memory_reserved_gb")),
        ("hottest GPU (°C)", lambda line: line.get("gpu", {}).get("temperature_c")),
        ("slowest GPU (MHz)", lambda line: line.get("gpu", {}).get("clock_mhz")),
        ("load of the first node (%)", lambda line: line.get("system", {}).get("cpu_utilization_percentage")),
    ]
    shown = [(title, value) for title, value in panels if any(value(line) is not None for line in samples)]
    with new_page(path, len(shown), 1, (11.0, 2.4 * len(shown))) as (_, axes):
        for panel, (title, value) in zip(axes, shown, strict=True):
            x = [line["step"] for line in samples]
            y = [math.nan if (one := value(line)) is None else one for line in samples]
            panel.plot(x, y, color=ACCENTS[2], linewidth=1.2)
            panel.set_ylim(bottom=0)
            panel.set_title(title)
        axes[-1].set_xlabel("step")
    return path


FLOWS: Final[Mapping[str, str]] = {
    "grad_mean_layer": "mean |gradient| by layer",
    "grad_norm_layer": "gradient norm by layer",
    "update_ratio_group": "update over weights, by group of parameters",
    "activation_rms": "RMS of a layer's output",
}
"""What is drawn as a map, by the field of a step's line."""


def has_flow(lines: Sequence[Line]) -> bool:
    """Whether any map can be drawn."""
    return any(line.get(key) for line in lines for key in FLOWS)


def draw_flow(path: Path, lines: Sequence[Line]) -> Path:
    """Maps over time, a row for each layer: whether gradients flow, and where they stop."""
    found = {key: [line for line in lines if line.get(key)] for key in FLOWS}
    shown = {key: _spread(having, _FLOW) for key, having in found.items() if having}
    rows = {key: list(dict.fromkeys(name for line in shown[key] for name in line[key])) for key in shown}
    height = sum(1.1 + 0.2 * len(names) for names in rows.values())
    with new_page(path, len(shown), 1, (11.0, height)) as (figure, axes):
        for panel, (key, picked) in zip(axes, shown.items(), strict=True):
            table = np.array([[line[key].get(name, math.nan) for line in picked] for name in rows[key]])
            # Logarithmic: what one looks for is a layer that gets a thousandth of what the others get.
            values = np.log10(np.where(table > 0, table, math.nan))
            steps = [line["step"] for line in picked]
            image = panel.pcolormesh(steps, range(len(rows[key])), values, shading="nearest", cmap="viridis")
            panel.invert_yaxis()
            panel.grid(visible=False)
            panel.set_yticks(range(len(rows[key])), rows[key], fontsize=7)
            panel.set_title(FLOWS[key])
            figure.colorbar(image, ax=panel, label="log10", fraction=0.03, pad=0.01)
        axes[-1].set_xlabel("step")
    return path


def _spread(lines: Sequence[Line], most: int) -> list[Line]:
    """Evenly, at most so many."""
    return [lines[at] for at in spread(len(lines), most)]


BY_LAYER: Final[Mapping[str, str]] = {
    "batch_entropy": "batch entropy of each layer's output",
    "soft_neighbours": "soft nearest neighbour loss of each layer's output",
}
"""Measurements with a curve for each layer."""


def draw_diagnoses(path: Path, lines: Sequence[Line]) -> Path:
    """What was measured of each layer, and sharpness as a share of its edge."""
    measured = {key: [line for line in lines if key in line] for key in BY_LAYER}
    sharp = [line for line in lines if "sharpness" in line]
    count = sum(map(bool, measured.values())) + bool(sharp)
    with new_page(path, count, 1, (11.0, 3.2 * count)) as (_, axes):
        for panel, key in zip(axes, [key for key in BY_LAYER if measured[key]], strict=False):
            names = list(measured[key][-1][key])
            for name, colour in zip(names, sequential_colours(len(names)), strict=True):
                x, y = _series(measured[key], key, name)
                panel.plot(x, y, "o-", color=colour, markersize=3, linewidth=1.2, label=name)
            panel.set_title(BY_LAYER[key])
            panel.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)
        if sharp:
            x, y = [line["step"] for line in sharp], [line["sharpness"] for line in sharp]
            axes[-1].plot(x, y, "o-", color=ACCENTS[0], markersize=3)
            axes[-1].axhline(1.0, color=_RED, linewidth=1, linestyle="--", label="edge of stability")
            axes[-1].set_ylim(bottom=min(0.0, *y))
            axes[-1].set_title("sharpness, as a share of the edge")
            axes[-1].legend(loc="center right")
        axes[-1].set_xlabel("step")
    return path


def draw_time(path: Path, facts: RunFacts) -> Path:
    """Where the time went: one bar, every part above half a percent with its share."""
    ledger = facts.history.ledger
    colours = dict(zip(PARTS, [*ACCENTS, "#999999", "#bbbb00", _RED, "#cccccc", "#888888"], strict=True))
    colours["step"] = ACCENTS[2]
    colours["first step"] = ACCENTS[3]
    with new_page(path, 1, 1, (11.0, 2.2)) as (figure, (panel,)):
        left = 0.0
        for part, _, share in ledger.largest_first:
            if share >= 0.005:
                label = f"{part} {100 * share:.1f} %"
                panel.barh(0, 100 * share, left=left, color=colours[part], label=label)
                left += 100 * share
        panel.set_xlim(0, 100)
        panel.set_yticks([])
        panel.grid(visible=False)
        panel.set_xlabel("% of the time")
        panel.set_title(f"{ledger.goodput:.1%} of the time went into steps that were kept")
        figure.legend(loc="outside lower center", ncols=6, fontsize=8)
    return path


def draw_overlay(path: Path, runs: Sequence[RunFacts]) -> Path:
    """Training and validation loss of several runs."""
    with new_page(path, 1, 2, (13.0, 4.6)) as (_, (training, validation)):
        losses = []
        for facts, colour in zip(runs, sequential_colours(len(runs)), strict=True):
            columns, found = facts.history.columns, facts.history.validations
            _draw_curve(training, columns["step"], columns["loss"], colour, facts.name, band=False)
            x, y = [one["step"] for one in found], [one["loss"] for one in found]
            validation.plot(x, y, "o-", color=colour, markersize=3, linewidth=1.2, label=facts.name)
            losses += [columns["loss"], np.array(y)]
        for panel, title in ((training, "training loss"), (validation, "validation loss")):
            _limit(panel, losses)
            panel.set_title(title)
            panel.set_xlabel("step")
        validation.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8)
    return path


def _draw_curve(
    panel: "Axes",
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    colour: str,
    label: str,
    *,
    band: bool = True,
) -> None:
    """A curve; one of many points as means of neighbours, with the band between their extremes."""
    if len(x) <= _POINTS:
        panel.plot(x, y, color=colour, linewidth=1.2, label=label)
        return
    cuts = np.linspace(0, len(x), _POINTS // 2 + 1).astype(int)[:-1]
    counts = np.diff([*cuts, len(x)])
    finite = np.isfinite(y)
    total = np.add.reduceat(np.where(finite, y, 0.0), cuts)
    middle = x[cuts + counts // 2]
    with np.errstate(invalid="ignore", divide="ignore"):
        panel.plot(middle, total / np.add.reduceat(finite, cuts), color=colour, linewidth=1.2, label=label)
    if band:
        low = np.minimum.reduceat(np.where(finite, y, np.inf), cuts)
        high = np.maximum.reduceat(np.where(finite, y, -np.inf), cuts)
        known = np.isfinite(low)
        panel.fill_between(middle, low, high, where=known, color=colour, alpha=0.2, linewidth=0)


def _series(samples: Sequence[Line], key: str, name: str) -> tuple[list[int], list[float]]:
    found = [(line["step"], line[key][name]) for line in samples if name in (line.get(key) or {})]
    return [step for step, _ in found], [value for _, value in found]


def _mark_events(panel: "Axes", history: History) -> None:
    """Attempts after the first, rollbacks, and updates that were not applied, each kind with one label."""
    begins = [event for event in history.of("begin") if event["from_step"] > 0]
    marks = (
        ("resumed", MUTED, [event["from_step"] for event in begins]),
        ("rolled back", _RED, [event["from_step"] for event in history.of("rollback")]),
    )
    for label, colour, steps in marks:
        for number, step in enumerate(steps[:50]):
            panel.axvline(step, color=colour, linewidth=0.8, linestyle=":", label="" if number else label)
    skipped = [event["step"] for event in history.of("skipped")]
    if skipped:
        place = panel.get_xaxis_transform()
        panel.plot(
            skipped,
            [0.02] * len(skipped),
            "^",
            color=_RED,
            markersize=6,
            transform=place,
            label="not applied",
        )


def _limit(panel: "Axes", values: Sequence[NDArray[np.float64]]) -> None:
    """From the lowest value to a little above nearly all: one jump must not flatten the curve."""
    found = np.concatenate([*values, np.empty(0)])
    found = found[np.isfinite(found)]
    if found.size:
        low, high = float(found.min()), float(np.quantile(found, 0.995))
        margin = 0.06 * (high - low) or 0.1
        panel.set_ylim(low - margin, high + 2 * margin)
