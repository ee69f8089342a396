"""The report of one run or several: which sections there are, in which order."""

import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, final

from launcher.report import run_plots as plots
from launcher.report import run_tables as tables
from launcher.report.figure import can_draw
from launcher.report.page import Section, make_page
from launcher.report.run_facts import RunFacts
from launcher.report.spikes import LEAST, find_spikes

Line = Mapping[str, Any]
Draw = Callable[[str, Callable[[Path], Path]], Path | None]
"""(name of a picture, what draws it into a file) -> the file; None where nothing can be drawn."""


@final
class _Pictures:
    """Drawn together at the end, since each takes half a second."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._jobs: list[tuple[Callable[[Path], Path], Path]] = []

    def add(self, name: str, into: Callable[[Path], Path]) -> Path | None:
        """See Draw."""
        if not can_draw():
            return None
        path = self._folder / f"{name}.png"
        self._jobs.append((into, path))
        return path

    def draw(self, *, alone: bool) -> None:
        """All of them. `alone`: in this process, else half of them in a fork of it."""
        if alone or len(self._jobs) < 2:
            _draw_all(self._jobs)
            return
        mine, others = self._jobs[::2], self._jobs[1::2]
        process = multiprocessing.get_context("fork").Process(target=_draw_all, args=(others,))
        process.start()
        _draw_all(mine)
        process.join()
        if process.exitcode:  # here it can say why
            _draw_all(others)


def _draw_all(jobs: Sequence[tuple[Callable[[Path], Path], Path]]) -> None:
    for into, path in jobs:
        into(path)


def _page(title: str, sections: Sequence[Section]) -> str:
    """Without sections of which nothing is left."""
    notes = [] if can_draw() else [Section(title="Pictures", note=_NO_PICTURES)]
    shown = [section for section in sections if section.rows or section.picture is not None]
    return make_page(title, [*notes, *shown])


_NO_PICTURES = "matplotlib is not installed here: pip install 'mulaunch[plot]', then call it again."


def report_run(facts: RunFacts, folder: Path, *, alone: bool = False) -> str:
    """The page of one run; its pictures are left in a folder, too. `alone`: without another process."""
    pictures = _Pictures(folder)
    troubles = tables.troubles(facts)
    sections = [
        Section(title="What was run", rows=tables.what_was_run(facts)),
        Section(title="What it has reached", rows=tables.results(facts)),
        *(_trained(facts, pictures.add) if facts.history.step else []),
        Section(title="Attempts", rows=tables.attempts(facts)),
        Section(title="Troubles", rows=troubles if len(troubles) > 1 else []),
        Section(
            title="Values of the recipe that are not the defaults",
            note="All of them are in recipe.yaml, resolved.",
            rows=tables.not_default(facts),
        ),
    ]
    pictures.draw(alone=alone)
    return _page(facts.name, sections)


def _trained(facts: RunFacts, draw: Draw) -> list[Section]:
    """What its steps say."""
    samples = facts.history.samples()
    spikes, diagnoses = find_spikes(facts.history), facts.history.counted("diagnosis")
    lines = [*samples, *diagnoses]
    return [
        Section(title="Loss", picture=draw("loss", partial(plots.draw_loss, facts=facts))),
        Section(
            title="Where the time went",
            note="Over all attempts, from the first submission to the last line of the journal.",
            picture=draw("time", partial(plots.draw_time, facts=facts)),
            rows=tables.time_spent(facts),
        ),
        Section(
            title="Gradient norm",
            note="A dotted line is where an attempt resumed or a rollback went to.",
            picture=draw("gradients", partial(plots.draw_gradients, facts=facts)),
        ),
        Section(
            title="Flow through the layers",
            note="One color at one time: all layers learn. A dark row: that layer gets next to nothing.",
            picture=draw("flow", partial(plots.draw_flow, lines=lines)) if plots.has_flow(lines) else None,
        ),
        Section(title="Diagnosis", note=_SHARPNESS, picture=_diagnosed(diagnoses, draw)),
        Section(
            title="Jumps",
            note=f"Logged steps at least {LEAST:g} usual jumps above the median of those before them.",
            rows=tables.spike_rows(spikes) if spikes else [["", ""], ["none", ""]],
        ),
        Section(title="Learning rates", picture=draw("rates", partial(plots.draw_rates, samples=samples))),
        Section(title="Speed", picture=draw("speed", partial(plots.draw_speed, samples=samples))),
        Section(
            title="Traced steps",
            note="Communication alone is that in which rank 0 computed nothing; files are in RUN/traces.",
            rows=tables.traced(facts),
        ),
        Section(title="Plan against measured", rows=tables.plan_against_measured(facts, samples)),
        Section(title="Energy", rows=tables.energy(facts)),
    ]


_SHARPNESS = (
    "Sharpness is the largest eigenvalue of the Hessian, over one batch, in the optimizer's coordinates "
    "(arXiv 2207.14484): above the edge, steps along that direction grow."
)


def _diagnosed(lines: Sequence[Line], draw: Draw) -> Path | None:
    measured = any(key in line for line in lines for key in (*plots.BY_LAYER, "sharpness"))
    return draw("diagnosis", partial(plots.draw_diagnoses, lines=lines)) if measured else None


def report_runs(runs: Sequence[RunFacts], folder: Path) -> str:
    """The page of several runs side by side, best first."""
    runs = sorted(runs, key=tables.best_loss)
    pictures = _Pictures(folder)
    overlay = pictures.add("overlay", partial(plots.draw_overlay, runs=runs))
    pictures.draw(alone=True)
    sections = [
        Section(title="What differs, and what was reached", rows=tables.differences(runs)),
        Section(title="Loss", picture=overlay),
        Section(title="Attempts", rows=tables.all_attempts(runs)),
    ]
    return _page(f"{len(runs)} runs", sections)
