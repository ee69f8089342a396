"""`launch resume RUN`."""

import argparse
import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.slurm_job import QueueError
from launcher import files
from launcher.checkpoint.catalog import Saved, all_lost, find_newest
from launcher.cli.arguments import A_RUN, add_overrides, add_shape, parse, show_hints
from launcher.cli.data_check import check_data
from launcher.cli.parser import Parser
from launcher.cli.queued import ask_queue
from launcher.errors import Problem, UserError
from launcher.named_runs import find_run
from launcher.optim.config import ScheduleConfig
from launcher.optim.schedule import Schedule, describe_jump
from launcher.recipe.compile import DamagedRecipeError, load_frozen, load_frozen_text
from launcher.recipe.hints import find_hints
from launcher.recipe.loaded import LoadedRecipe
from launcher.recipe.schema import Recipe
from launcher.run_folder import JOURNAL, RECIPE, lock_run, new_submission, open_mirror, require_run

if TYPE_CHECKING:
    from launcher.submit import Prepared

LOCK_WAIT_S = 5.0
"""A run that was killed a moment ago may still hold its lock."""


def resume_run(arguments: Sequence[str]) -> int:
    """Continue a run from its newest good checkpoint, on the same or another number of nodes."""
    parser = Parser(prog="launch resume", description="Continue a run.")
    parser.add_argument("run", help=A_RUN)
    add_overrides(parser)
    add_shape(parser)
    parser.add_argument("--fresh", action="store_true", help="start over from step 0, in a new folder")
    parser.add_argument("--run-dir", metavar="URL", help="with --fresh: the new folder")
    options = parse(parser, arguments)
    if options.run_dir is not None and not options.fresh:
        parser.error("--run-dir is for --fresh: a run is resumed in its own folder")
    run_url = find_run(options.run)
    require_run(run_url)
    if options.fresh:
        return _start_over(run_url, options)
    loaded = _load(run_url, options)
    _require_not_queued(run_url)
    # Rank 0 takes the lock for the whole run; taking it here only reports early that another process has it.
    if (lock := lock_run(run_url, LOCK_WAIT_S)) is not None:
        lock.close()
    from launcher.cli.tracking import check_store, run_environment
    from launcher.submit import ask_scheduler, first_folder, freeze_and_submit, prepare

    # Relative paths begin in the folder where the run was first started, as they do in its script.
    with contextlib.chdir(first_folder(run_url) or Path.cwd()):
        with loaded.locating():
            check_data(loaded.recipe)
            check_store(loaded.recipe.track.mlflow)
            env, submission = run_environment(), new_submission()
            prepared = prepare(loaded.recipe, run_url, env=env, submission=submission)
            show_hints(ask_scheduler(prepared))
        saved = _find(run_url, loaded.recipe.train.steps)
        if saved is None:
            print("no checkpoint yet: starting from step 0")
        else:
            before = _check(loaded, prepared, saved)
            if saved.step >= loaded.recipe.train.steps:
                print(f"{run_url} is complete: step {saved.step} of {loaded.recipe.train.steps}")
                print(f"to train longer: launch resume {run_url} train.steps={2 * saved.step}")
                return 0
            print(f"resuming from step {saved.step} of {loaded.recipe.train.steps}")
            if (jump := _rate_jump(saved, before.schedule, loaded.recipe)) is not None:
                print(jump)
        show_hints(find_hints(loaded))
    return freeze_and_submit(prepared, source=None)


def _require_not_queued(run_url: str) -> None:
    """Raise UserError where a job of the run waits in the queue, or runs."""
    with contextlib.suppress(QueueError):  # another cluster, or none: the lock is asked next
        queued = ask_queue(run_url)
        if queued is not None and not queued.state.is_over and queued.state.state != "COMPLETING":
            message = f"job {queued.job} is {queued.state.state} for it already"
            remedy = f"wait for it, or end it: launch cancel {files.shortest(run_url)}"
            raise UserError(Problem(files.shortest(run_url), message, remedy))


def _load(run_url: str, options: argparse.Namespace) -> LoadedRecipe:
    """The run's recipe; where it is damaged, that of the newest checkpoint."""
    url, shape = (
        files.join(run_url, RECIPE),
        {"nodes": options.nodes, "nproc_per_node": options.nproc_per_node},
    )
    try:
        return load_frozen(url, options.overrides, **shape)
    except DamagedRecipeError:
        saved, _ = find_newest(run_url, verify=False)
        if saved is None:
            raise
    print(f"{files.shortest(url)} is damaged: the recipe is that of step {saved.step}")
    return load_frozen_text(saved.manifest.recipe, url, options.overrides, **shape)


def _find(run_url: str, total_steps: int) -> Saved | None:
    """The newest good checkpoint; raises UserError where all that were saved are gone."""
    saved, rejected = find_newest(run_url, verify=False)
    if saved is not None and saved.step >= total_steps:
        # The ranks verify what they load. Before "complete" is said, nobody would.
        saved, rejected = find_newest(run_url, verify=True)
    for bad in rejected:
        print(f"passing over {bad.url}: {bad.reason}")
    if saved is None:
        mirror = open_mirror(run_url, is_main=True)
        lost = all_lost(run_url, rejected, mirror.folder / JOURNAL)
        mirror.discard()  # this process becomes another one, which would not
        if lost is not None:
            raise UserError(lost)
    return saved


def _rate_jump(saved: Saved, before: ScheduleConfig, now: Recipe) -> str | None:
    schedule, old_steps = Schedule(now.schedule, now.train.steps), saved.manifest.schedule.total_steps
    schedule.restore(saved.manifest.schedule.state, old_steps)
    return describe_jump(before, old_steps, schedule, now.train.steps, step=saved.step, lr=now.optim.lr)


def _check(loaded: LoadedRecipe, prepared: "Prepared", saved: Saved) -> Recipe:
    """The checkpoint's recipe; raises UserError where it cannot continue as this one."""
    from launcher.checkpoint.identity import (
        check_data,
        check_extensions,
        check_identity,
        check_model,
        check_optimizer,
        check_source,
        describe_data,
    )
    from launcher.checkpoint.restore import saved_recipe
    from launcher.data.token_set import fingerprint_of
    from launcher.plan.parameters import meta_shapes

    parameters = prepared.plan.parameters
    before = saved_recipe(saved)
    with loaded.locating():
        check_optimizer(saved, before.optim, loaded.recipe.optim)
        check_extensions(saved, prepared.plan)
    check_model(saved, meta_shapes(before.model), parameters.shapes)
    check_identity(saved, parameters)
    check_source(saved, before.data, loaded.recipe.data)
    # The ranks read the data and compare its content; here only what costs nothing to read is compared.
    known = fingerprint_of(loaded.recipe.data)
    if known is None:
        known = saved.manifest.data.fingerprint, saved.manifest.data.tokenizer
    check_data(saved, describe_data(loaded.recipe, *known))
    return before


def _start_over(run_url: str, options: argparse.Namespace) -> int:
    """The run's recipe from step 0, in a new folder; the old one stays as it is."""
    from launcher.cli.run import new_places, start_run
    from launcher.submit import first_folder

    loaded = _load(run_url, options)
    places = new_places(options.run_dir, loaded.recipe.name)
    with contextlib.chdir(first_folder(run_url) or Path.cwd()):
        return start_run(loaded, places, run_url)
