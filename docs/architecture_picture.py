"""Draw docs/architecture.png: the rooms, and the life of one step. python docs/architecture_picture.py"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch  # noqa: E402

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "0.45"

# (x, y, width, height, title, what is in it, colour)
ROOMS = [
    (0.0, 6.4, 3.0, 1.3, "recipes/", "what to run: YAML only", GREY),
    (0.0, 4.6, 3.0, 1.3, "launcher/recipe", "YAML -> typed recipe\nrules, line and column", BLUE),
    (4.0, 4.6, 3.0, 1.3, "launcher/plan + mup", "every derived number\nroles, widths, groups", BLUE),
    (8.0, 4.6, 3.0, 1.3, "launcher/submit.py", "freezes RUN/, renders\njob.sh, submits", BLUE),
    (8.0, 6.4, 3.0, 1.3, "cluster/", "job -> text for torchrun\nor Slurm; no torch", GREEN),
    (4.0, 6.4, 3.0, 1.3, "models/", "single-device modules\nand their parameter facts", GREEN),
    (0.0, 2.8, 3.0, 1.3, "launcher/data", "global order -> batches\nvalidation split", BLUE),
    (4.0, 2.8, 3.0, 1.3, "launcher/parallel + optim", "the engine: torch or ZeRO\ngroups, schedule", BLUE),
    (8.0, 2.8, 3.0, 1.3, "launcher/checkpoint", "stage, write, publish\nmanifest, restore", BLUE),
    (12.0, 2.8, 3.0, 1.3, "launcher/track", "journal -> MLflow,\nconsole, step metrics", BLUE),
    (12.0, 4.6, 3.0, 1.3, "launcher/cli", "one file a verb: parse,\nprint, nothing else", BLUE),
]
ARROWS = [
    ((1.5, 6.4), (1.5, 5.9)),
    ((3.0, 5.25), (4.0, 5.25)),
    ((5.5, 6.4), (5.5, 5.9)),
    ((7.0, 5.25), (8.0, 5.25)),
    ((9.5, 6.4), (9.5, 5.9)),
    ((12.0, 5.25), (11.0, 5.25)),
]
# (name, what happens, width, colour)
PHASES = [
    ("data", "batches.at(data_step)", 2.3, GREEN),
    ("step", "each micro batch: forward, backward\nreduce, norms, clip, rates, update", 5.0, BLUE),
    ("log", "read norms, loss\njournal line", 2.2, GREY),
    ("validation", "if due: loss and\naccuracy, all ranks", 2.5, GREY),
    ("checkpoint", "if due: fsync journal, stage,\nwrite, publish, delete old", 3.0, ORANGE),
]


def box(axes: Axes, x: float, y: float, w: float, h: float, title: str, text: str, colour: str) -> None:
    """A room or a phase."""
    style = "round,pad=0,rounding_size=0.12"
    axes.add_patch(FancyBboxPatch((x, y), w, h, boxstyle=style, facecolor="white", edgecolor=colour, lw=1.6))
    axes.text(
        x + w / 2, y + h - 0.12, title, ha="center", va="top", fontsize=9.5, weight="bold", color=colour
    )
    axes.text(x + w / 2, y + h / 2 - 0.18, text, ha="center", va="center", fontsize=8.5, color="0.2")


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str = GREY) -> None:
    """Who hands over to whom."""
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=11, color=colour, lw=1.2))


def draw(picture: Path) -> None:
    """Both halves on one sheet."""
    figure, axes = plt.subplots(figsize=(11, 6.4), layout="constrained")
    for room in ROOMS:
        box(axes, *room)
    for start, end in ARROWS:
        arrow(axes, start, end)
    axes.add_patch(
        FancyBboxPatch(
            (-0.25, 2.6), 15.5, 1.7, boxstyle="round,pad=0,rounding_size=0.15", facecolor="none",
            edgecolor=ORANGE, lw=1.2, linestyle="--",
        )
    )  # fmt: skip
    axes.text(15.2, 2.35, "train.py: set-up of these nouns, then one while loop", ha="right", va="center",
              fontsize=9, color=ORANGE)  # fmt: skip
    arrow(axes, (9.5, 4.6), (9.5, 4.3))
    axes.text(9.65, 4.45, "torchrun starts cli/rank.py on every rank", va="center", fontsize=8.5, color=GREY)
    axes.text(0.0, 1.95, "one step, by the phases of the clock", fontsize=9.5, weight="bold", color="0.2")
    x = 0.0
    for name, text, width, colour in PHASES:
        box(axes, x, 0.55, width - 0.15, 1.2, name, text, colour)
        x += width
    arrow(axes, (14.85, 0.45), (0.1, 0.45), ORANGE)
    axes.text(
        7.5, 0.2, "progress = progress.after_step()", ha="center", va="center", fontsize=8.5, color=ORANGE
    )
    axes.set(xlim=(-0.4, 15.4), ylim=(0, 7.9))
    axes.axis("off")
    figure.savefig(picture, dpi=120)


if __name__ == "__main__":
    draw(Path(__file__).parent / "architecture.png")
