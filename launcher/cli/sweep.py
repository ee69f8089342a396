"""`launch sweep`."""

import argparse
import functools
import math
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from cluster.config import ClusterConfig
from cluster.kinds import on_submit_host
from launcher.cli.arguments import add_profile, json_alone, parse, positive, show_hints, with_profile
from launcher.cli.parser import Parser
from launcher.cli.sweep_array import array_lines, submit_array
from launcher.cli.tracking import find_target, mlflow_environment, run_environment
from launcher.data.source_table import check_sources
from launcher.errors import Problem, UserError
from launcher.recipe.compile import load_recipe
from launcher.recipe.hints import find_hints
from launcher.sweep.axes import read_axes
from launcher.sweep.draw import Draws
from launcher.sweep.grid import ONE_PROCESS, Rung, SweepPoint, load_points
from launcher.sweep.halving import Budget
from launcher.sweep.results import PointResult
from launcher.sweep.transfer import Transfer, find_transfers, numeric_keys
from launcher.track.mlflow import MlflowTarget


def sweep_recipe(arguments: Sequence[str]) -> int:
    """Train a recipe at every point of a grid, here. Returns 0 if every point has a result, else 1."""
    options = parse(_parser(), arguments)
    if options.json and (options.best or options.cluster == "slurm"):
        other = "--best" if options.best else "--cluster slurm"
        raise UserError(Problem("--json", f"is of results, and {other} waits for none", "--table --json"))
    with json_alone(options.json):
        code, results = _sweep(options, arguments)
    if options.json:
        print(results.read_text() if results.exists() else '{"points": []}')
    return code


def _sweep(options: argparse.Namespace, arguments: Sequence[str]) -> tuple[int, Path]:
    """Exit code, and the file of results."""
    if options.cluster is None and not (options.table or options.best) and on_submit_host():
        remedy = "--cluster slurm submits a job array; --cluster local trains on this host all the same"
        raise UserError(Problem("launch sweep", "this is a host that jobs are submitted from", remedy))
    drops = [word for word in options.axes if word.startswith("~")]
    axes = [word for word in options.axes if word not in drops and not _is_cluster(word)]
    read, draws = read_axes(axes), None
    if options.random is not None:
        draws = Draws(options.random, options.draw_seed)
    budget = Budget(options.tokens, options.halving)
    submits = options.cluster == "slurm" and not (options.table or options.best)
    if submits and budget != Budget(None, None):
        message = "--tokens and --halving choose the next points by results, which an array does not wait for"
        remedy = "train here (--cluster local), or sweep train.steps"
        raise UserError(Problem("launch sweep", message, remedy))
    load = functools.partial(load_points, options.recipe, read, drops, draws)
    points = load()
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

    from launcher.sweep.run_sweep import PICTURE, RESULTS, VALUES, SweepOptions, read_results, run_rungs
    from launcher.sweep.sweep_mlflow import open_parent
    from launcher.sweep.sweep_text import sweep_text

    if options.best:
        return _print_best(options.recipe, drops, points, load, budget, out), out / RESULTS
    os.environ |= mlflow_environment()
    parent = open_parent(target, recipe.name, out, options.axes, _say)
    if submits:
        return _submit(points, options, arguments, out, parent.children), out / RESULTS
    # Points that are trained at once divide the cores, or their threads would compete for them.
    threads = int(os.environ.get("OMP_NUM_THREADS", max(1, cores // jobs)))
    asked = SweepOptions(
        out=out, jobs=jobs, threads=threads, mlflow=parent.children, say=_say, only_read=options.table
    )
    run_rungs(points, load, budget, asked)
    results = read_results(out)
    transfers = find_transfers(results)
    _say(sweep_text(results, transfers))
    _say(_draw(out, results, transfers))
    parent.close(transfers, [out / RESULTS, out / PICTURE, out / VALUES])
    # A diverged point is a result: too high a rate is part of what a sweep of rates finds.
    done = all(result.status in ("finished", "diverged") for result in results)
    return 0 if done else 1, out / RESULTS


def _print_best(
    path: str,
    drops: Sequence[str],
    points: Sequence[SweepPoint],
    load: Callable[[Rung], Sequence[SweepPoint]],
    budget: Budget,
    out: Path,
) -> int:
    """The recipe on stdout, what is to be known of it on stderr."""
    from launcher.sweep.best import best_recipe, compared_keys
    from launcher.sweep.run_sweep import SweepOptions, run_rungs

    asked = SweepOptions(out=out, jobs=1, threads=1, mlflow=None, say=lambda text: None, only_read=True)
    last, results = run_rungs(points, load, budget, asked)
    best = best_recipe(path, drops, compared_keys(points), last, results, out)
    for remark in best.remarks:
        print(f"launch: {remark}", file=sys.stderr)
    print(best.text, end="")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="launch sweep",
        description="Train a recipe at every point of a grid, one process per point. The same command again "
        "trains only what is missing; other values with the same --out add to the table.",
    )
    parser.add_argument("recipe", help="recipe file")
    parser.add_argument(
        "axes",
        nargs="+",
        metavar="key=a,b,...",
        help="values to try, such as optim.lr=1e-3,2e-3 seed=1,2; ~optim.betas drops a key",
    )
    parser.add_argument(
        "--random",
        type=positive,
        metavar="N",
        help="draw N combinations, of key=a..b equally likely in every octave; each at all widths and seeds",
    )
    parser.add_argument(
        "--draw-seed", type=int, default=0, metavar="N", help="of --random; more draws add to the same ones"
    )
    parser.add_argument(
        "--tokens",
        type=_tokens,
        metavar="N",
        help="train all points together for so many tokens, such as 5e8",
    )
    parser.add_argument(
        "--halving",
        type=_eta,
        metavar="K",
        help="train all points briefly, the best 1/K for K times as long, and so forth (successive halving)",
    )
    parser.add_argument(
        "--jobs", type=positive, metavar="N", help="points trained at once; default one per core"
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder of the sweep; default runs/sweep-NAME"
    )
    parser.add_argument(
        "--cluster",
        choices=["local", "slurm"],
        help="local: here; slurm: a job array, --jobs tasks at once; needed on a host of a Slurm cluster",
    )
    parser.add_argument("--json", action="store_true", help="print sweep.json; all else is on stderr")
    parser.add_argument("--table", action="store_true", help="only the table of what is done; trains nothing")
    parser.add_argument(
        "--best",
        action="store_true",
        help="print the recipe at its own width with the best values at the largest width tried, and where "
        "they come from; trains nothing",
    )
    add_profile(parser)
    return parser


def _tokens(text: str) -> float:
    if not (math.isfinite(tokens := float(text)) and tokens > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of tokens")
    return tokens


def _eta(text: str) -> int:
    if (eta := int(text)) < 2:
        raise argparse.ArgumentTypeError(f"{text!r}: at least 2")
    return eta


def _is_cluster(axis: str) -> bool:
    return axis.startswith("cluster.")


def _cluster_of_a_point(options: argparse.Namespace) -> ClusterConfig:
    """What the array asks for: one process, and its share of what the recipe or profile says of a node."""
    given = [axis for axis in options.axes if _is_cluster(axis)]
    overrides = [*with_profile(given, options.profile), *ONE_PROCESS[1:]]
    config = load_recipe(options.recipe, overrides, nodes=1, nproc_per_node=1).recipe.cluster
    parts = config.gpus_per_node or 1
    share = {
        "gpus_per_node": None if config.gpus_per_node is None else 1,
        "cpus_per_node": None if config.cpus_per_node is None else max(1, config.cpus_per_node // parts),
        "memory": None if parts > 1 else config.memory,
    }
    return config.model_copy(update=share)


def _submit(
    points: Sequence[SweepPoint],
    options: argparse.Namespace,
    arguments: Sequence[str],
    out: Path,
    mlflow: MlflowTarget | None,
) -> int:
    """The points that are not done, as a job array."""
    from launcher.sweep.results import is_finished
    from launcher.sweep.run_sweep import require_same_recipes

    require_same_recipes(points, out)
    todo = [point for point in points if not is_finished(out / point.name)]
    command = [word for word in arguments if word != "--table"]
    if not todo:
        _say(f"all {len(points)} points are done: {shlex.join(['launch', 'sweep', *command, '--table'])}")
        return 0
    at_once = min(options.jobs or 16, len(todo))
    out.mkdir(parents=True, exist_ok=True)
    job = submit_array(
        f"sweep-{points[0].recipe.name}",
        todo,
        out,
        _cluster_of_a_point(options),
        run_environment(),
        at_once=at_once,
        parent_run_id=mlflow.parent_run_id if mlflow else None,
    )
    _say("\n".join(array_lines(job, len(todo), at_once, out, command)))
    return 0


def _say(text: str) -> None:
    print(text, flush=True)


def _draw(out: Path, results: Sequence[PointResult], transfers: Sequence[Transfer]) -> str:
    """Draw what results can show. Returns where the pictures are, or what is missing to draw one."""
    from launcher.report.figure import can_draw
    from launcher.report.transfer_plot import draw_transfer, draw_values
    from launcher.sweep.run_sweep import PICTURE, VALUES

    values = numeric_keys(results) and any(math.isfinite(result.loss) for result in results)
    if not can_draw():
        return "\nno picture: matplotlib is not installed (pip install 'mulaunch[plot]')" if transfers else ""
    loss_name = "validation loss" if all(result.validation for result in results) else "training loss"
    lines = [f"\npicture: {draw_transfer(out / PICTURE, transfers, loss_name)}"] if transfers else []
    if values:
        lines.append(f"picture of every value: {draw_values(out / VALUES, results, loss_name)}")
    return "\n".join(lines)
