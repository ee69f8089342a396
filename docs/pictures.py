"""Draw docs/quickstart-loss.png from a run's journal: python docs/pictures.py RUN."""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

from launcher.track.journal import read_journal, step_records  # noqa: E402

BLUE, ORANGE = "#0072B2", "#D55E00"


def draw_loss(journal: Path, picture: Path) -> None:
    """Training and validation loss over tokens."""
    steps = step_records(journal)
    tokens_per_step = steps[min(steps)]["tokens"] / min(steps)
    evals = [record for record in read_journal(journal) if record["event"] == "validation"]
    figure, axes = plt.subplots(figsize=(7, 3.4), layout="constrained")
    axes.axhline(5.545, color="0.7", linewidth=1, linestyle=":")
    axes.annotate("ln 256: guessing", (0, 5.545), xytext=(4, -12), textcoords="offset points", color="0.45")
    axes.plot(
        [record["tokens"] / 1e6 for record in steps.values()],
        [record["loss"] for record in steps.values()],
        color=BLUE,
        linewidth=1.2,
        label="training batch",
    )
    axes.plot(
        [record["step"] * tokens_per_step / 1e6 for record in evals],
        [record["loss"] for record in evals],
        "o-",
        color=ORANGE,
        label="validation files",
    )
    last = evals[-1]
    axes.annotate(
        f"{last['loss']:.2f}",
        (last["step"] * tokens_per_step / 1e6, last["loss"]),
        xytext=(-4, 8),
        textcoords="offset points",
        ha="right",
        color=ORANGE,
    )
    axes.set(xlabel="million bytes seen", ylabel="loss (nats per byte)", xlim=(0, None), ylim=(1.5, 5.8))
    axes.set_title("Quickstart: S4D on the source of Python's standard library", fontsize=10, loc="left")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(picture, dpi=130)


if __name__ == "__main__":
    draw_loss(Path(sys.argv[1]) / "journal.jsonl", Path(__file__).parent / "quickstart-loss.png")
