"""The report of one run or several: which sections there are, in which order."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from launcher.report import run_plots as plots
from launcher.report import run_tables as tables
from launcher.report.page import Section, make_page
from launcher.report.run_facts import RunFacts
from launcher.report.spikes import LEAST, find_spikes


def report_run(facts: RunFacts, folder: Path) -> str:
    """The page of one run; its pictures are left in a folder, too."""
    sections = [
        Section(title="What was run", rows=tables.what_was_run(facts)),
        Section(title="What it has reached", rows=tables.results(facts)),
        *_trained(facts, folder),
        *_told(facts),
        Section(
            title="Values of the recipe that are not the defaults",
            note="All of them are in recipe.yaml, resolved.",
            rows=tables.not_default(facts),
        ),
    ]
    return make_page(facts.name, sections)


def _trained(facts: RunFacts, folder: Path) -> list[Section]:
    """What is drawn of its steps."""
    samples = facts.history.samples()
    if not samples:
        return [Section(title="Loss", note="No step has been logged yet.")]
    picture = {
        name: folder / f"{name}.png" for name in ("loss", "gradients", "rates", "flow", "speed", "time")
    }
    spikes, diagnoses = find_spikes(facts.history), facts.history.counted("diagnosis")
    return [
        Section(title="Loss", picture=plots.draw_loss(picture["loss"], facts)),
        Section(
            title="Where the time went",
            note="Over all attempts, from the first submission to the last line of the journal.",
            picture=plots.draw_time(picture["time"], facts),
            rows=tables.time_spent(facts),
        ),
        Section(
            title="Gradient norm",
            note="A dotted line is where an attempt resumed or a rollback went to.",
            picture=plots.draw_gradients(picture["gradients"], facts),
        ),
        Section(
            title="Flow through the layers",
            note="One color at one time: all layers learn. A dark row: that layer gets next to nothing.",
            picture=plots.draw_flow(picture["flow"], [*samples, *diagnoses]),
        ),
        *_diagnosed(diagnoses, folder),
        Section(
            title="Jumps",
            note=f"Logged steps at least {LEAST:g} usual jumps above the median of those before them.",
            rows=tables.spike_rows(spikes) if spikes else [["", ""], ["none", ""]],
        ),
        Section(title="Learning rates", picture=plots.draw_rates(picture["rates"], samples)),
        Section(title="Speed", picture=plots.draw_speed(picture["speed"], facts, samples)),
        Section(title="Plan against measured", rows=tables.plan_against_measured(facts, samples)),
        Section(title="Energy", rows=tables.energy(facts)),
    ]


def _diagnosed(lines: Sequence[Mapping[str, Any]], folder: Path) -> list[Section]:
    if not any("batch_entropy" in line or "sharpness" in line for line in lines):
        return []
    note = (
        "Sharpness is the largest eigenvalue of the Hessian, over one batch, in the optimizer's coordinates "
        "(arXiv 2207.14484): above the edge, steps along that direction grow."
    )
    return [
        Section(title="Diagnosis", note=note, picture=plots.draw_diagnoses(folder / "diagnosis.png", lines))
    ]


def _told(facts: RunFacts) -> list[Section]:
    """What its events say."""
    troubles = tables.troubles(facts)
    return [
        Section(title="Attempts", rows=tables.attempts(facts)),
        *([Section(title="Troubles", rows=troubles)] if len(troubles) > 1 else []),
    ]


def report_runs(runs: Sequence[RunFacts], folder: Path) -> str:
    """The page of several runs side by side, best first."""
    overlay = plots.draw_overlay(folder / "overlay.png", runs)
    sections = [
        Section(title="What differs, and what was reached", rows=tables.differences(runs)),
        Section(title="Loss", picture=overlay),
        Section(title="Attempts", rows=tables.all_attempts(runs)),
    ]
    return make_page(f"{len(runs)} runs", sections)
