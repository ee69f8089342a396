"""`launch sweep`."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from launcher.cli.arguments import parse, positive, show_hints
from launcher.cli.tracking import find_target, mlflow_environment
from launcher.data.source_table import check_sources
from launcher.errors import Problem, UserError
from launcher.recipe.hints import find_hints
from launcher.sweep.grid import load_points, read_axes
from launcher.sweep.transfer import Transfer, find_transfers


def sweep_recipe(arguments: Sequence[str]) -> int:
    """Train a recipe at every point of a grid, here. Returns 0 if every point has a result, else 1."""
    parser = argparse.ArgumentParser(
        prog="launch sweep",
        description="Train a recipe at every point of a grid, one process per point. The same command again "
        "trains only what is missing; other values with the same --out add to the table.",
    )
    parser.add_argument("recipe", help="recipe file")
    parser.add_argument(
        "axes", nargs="+", metavar="key=a,b,...", help="values to try, such as optim.lr=1e-3,2e-3 seed=1,2"
    )
    parser.add_argument(
        "--jobs", type=positive, metavar="N", help="points trained at once; default one per core"
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder of the sweep; default runs/sweep-NAME"
    )
    options = parse(parser, arguments)
    points = load_points(options.recipe, read_axes(options.axes))
    loaded = points[0].loaded
    recipe = loaded.recipe
    with loaded.locating():
        check_sources(recipe.data)
        target = find_target(recipe.track.mlflow) if recipe.track.mlflow.enabled else None
    out = (options.out or Path("runs") / f"sweep-{recipe.name}").absolute()
    if out.exists() and not out.is_dir():
        raise UserError(Problem(f"--out {out}", "is a file", "choose another --out"))
    show_hints(hint for point in points for hint in find_hints(point.loaded))
    cores = len(os.sched_getaffinity(0))
    jobs = min(options.jobs or cores, len(points))

    from launcher.sweep.run_sweep import PICTURE, RESULTS, SweepOptions, read_results, run_sweep
    from launcher.sweep.sweep_mlflow import open_parent
    from launcher.sweep.sweep_text import sweep_text

    os.environ |= mlflow_environment()
    # Points that are trained at once divide the cores, or their threads would compete for them.
    threads = int(os.environ.get("OMP_NUM_THREADS", max(1, cores // jobs)))
    parent = open_parent(target, recipe.name, out, options.axes, _say)
    run_sweep(
        recipe.name,
        points,
        SweepOptions(out=out, jobs=jobs, threads=threads, mlflow=parent.children, say=_say),
    )
    results = read_results(out)
    transfers = find_transfers(results)
    _say(sweep_text(results, transfers))
    if transfers:
        _say(_draw(out / PICTURE, transfers, validation=all(result.validation for result in results)))
    parent.close(transfers, [out / RESULTS, out / PICTURE])
    # A diverged point is a result: too high a rate is part of what a sweep of rates finds.
    return 0 if all(result.status in ("finished", "diverged") for result in results) else 1


def _say(text: str) -> None:
    print(text, flush=True)


def _draw(path: Path, transfers: Sequence[Transfer], *, validation: bool) -> str:
    """Draw the picture. Returns a line that says where it is, or what is missing to draw it."""
    from launcher.report.figure import can_draw
    from launcher.report.transfer_plot import draw_transfer

    if not can_draw():
        return "\nno picture: matplotlib is not installed (pip install 'mulaunch[plot]')"
    loss_name = "validation loss" if validation else "training loss"
    return f"\npicture: {draw_transfer(path, transfers, loss_name)}"
