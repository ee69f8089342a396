"""Run a sweep: finished points are skipped, failures are reported, and every result is saved at once."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from launcher import files, run_folder
from launcher.errors import Problem, UserError
from launcher.json_text import dump_json, load_json
from launcher.recipe.compile import dump_recipe
from launcher.sweep.grid import Rung, SweepPoint
from launcher.sweep.halving import Budget, compared, plan_rungs, survivors, tokens_per_step
from launcher.sweep.results import (
    PointResult,
    is_finished,
    read_result,
    result_from_record,
    result_record,
)
from launcher.sweep.transfer import find_transfers
from launcher.sweep.worker import Task, run_tasks
from launcher.track.mlflow import MlflowTarget

RESULTS, PICTURE, VALUES = "sweep.json", "transfer.png", "values.png"


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepOptions:
    """Options of a sweep."""

    out: Path
    jobs: int
    threads: int
    """Threads of each process."""
    mlflow: MlflowTarget | None
    say: Callable[[str], None]
    only_read: bool = False
    """Train nothing: only bring the table up to date."""


def run_sweep(name: str, points: Sequence[SweepPoint], options: SweepOptions) -> list[PointResult]:
    """Train every point that is not finished; returns the results of all points of this sweep.

    The folder accumulates: a later sweep with other values of the same recipe adds to its table and picture.
    """
    folders = {point.name: options.out / point.name for point in points}
    require_same_recipes(points, options.out)
    done = {point.name for point in points if is_finished(folders[point.name])}
    todo = [point for point in points if point.name not in done]
    results = {point.name: read_result(point, folders[point.name]) for point in points}
    doing = "" if options.only_read else f"; {options.jobs} process(es)"
    options.say(f"{len(points)} points in {options.out}, {len(done)} of them done{doing}")
    _write_results(name, list(results.values()), options.out)
    if options.only_read:
        return list(results.values())
    by_folder = {folders[point.name]: point for point in todo}
    tasks = [
        Task(run_dir=folder, recipe=dump_recipe(point.recipe), mlflow=options.mlflow)
        for folder, point in by_folder.items()
    ]
    count = len(done)
    for task, error in run_tasks(tasks, jobs=options.jobs, threads=options.threads):
        point = by_folder[task.run_dir]
        result = results[point.name] = read_result(point, task.run_dir, error)
        count += 1
        outcome = f"loss {result.loss:.4f}" if result.status == "finished" else result.status
        seconds = f", {result.seconds:.0f} s" if result.seconds else ""
        options.say(
            f"[{count}/{len(points)}] {point.name}: {outcome}{seconds}" + (f": {error}" if error else "")
        )
        _write_results(name, list(results.values()), options.out)
    return list(results.values())


def run_rungs(
    points: Sequence[SweepPoint],
    load: Callable[[Rung], Sequence[SweepPoint]],
    budget: Budget,
    options: SweepOptions,
) -> tuple[Sequence[SweepPoint], list[PointResult]]:
    """run_sweep, rung by rung where there is a budget: the points of the last rung, and their results.

    Ends early where results of a rung are missing.
    """
    name = points[0].recipe.name
    if budget == Budget(None, None):
        return points, run_sweep(name, points, options)
    rungs, chosen, results = plan_rungs(points, budget), None, []
    for at, rung in enumerate(rungs):
        points = [point for point in load(rung) if chosen is None or compared(point) in chosen]
        tokens = len(points) * rung.steps * tokens_per_step(points[0].recipe)
        options.say(f"rung {at + 1} of {len(rungs)}: {rung.steps} steps each, {tokens:.3g} tokens in all")
        results = run_sweep(name, points, options)
        if any(result.status == "missing" for result in results):
            break
        if at + 1 < len(rungs):
            by_name = {result.name: result for result in results}
            chosen = survivors(points, by_name, rungs[at + 1].count)
    return points, results


def require_same_recipes(points: Sequence[SweepPoint], out: Path) -> None:
    """Raise UserError where a point was trained before, from another recipe."""
    problems = []
    for point in points:
        path = out / point.name / run_folder.RECIPE
        if path.exists() and path.read_text() != dump_recipe(point.recipe):
            message = "was trained from a recipe that differs from this one"
            problems.append(Problem(str(path), message, "choose another --out, or delete that folder"))
    if problems:
        raise UserError(*problems[:5])


def read_results(out: Path) -> list[PointResult]:
    """Every result in a sweep folder."""
    path = out / RESULTS
    return (
        [result_from_record(record) for record in load_json(path.read_bytes())["points"]]
        if path.exists()
        else []
    )


def _write_results(name: str, results: Sequence[PointResult], out: Path) -> None:
    # Written again after each point: a sweep that is stopped has a complete table of what it has finished.
    merged = {result.name: result for result in read_results(out)} | {
        result.name: result for result in results
    }
    transfers = find_transfers(list(merged.values()))
    record = {
        "sweep": name,
        "points": [result_record(result) for result in merged.values()],
        "transfer": [
            {
                "series": transfer.series,
                "key": transfer.key,
                "optima": [asdict(optimum) for optimum in transfer.optima],
                "shift_octaves": asdict(transfer.shift),
                "shift_interval": transfer.shift_interval,
                "range_octaves": transfer.range_octaves,
                "regret": transfer.regret,
                "wider_is_better": transfer.wider_is_better,
                "worse_steps": list(transfer.worse_steps),
            }
            for transfer in transfers
        ],
    }
    files.write_text(str(out / RESULTS), dump_json(record, indent=1) + "\n")
