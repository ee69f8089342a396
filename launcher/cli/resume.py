"""`launch resume RUN`."""

import argparse
from collections.abc import Sequence

from launcher import files
from launcher.checkpoint.catalog import find_newest
from launcher.cli.arguments import add_overrides, add_shape, parse, show_hints
from launcher.data.source_table import check_sources
from launcher.recipe.compile import load_frozen
from launcher.recipe.hints import find_hints
from launcher.run_folder import RECIPE, lock_run, require_run

LOCK_WAIT_S = 5.0
"""A run that was killed a moment ago may still hold its lock."""


def resume_run(arguments: Sequence[str]) -> int:
    """Continue a run from its newest good checkpoint, on the same or another number of nodes."""
    parser = argparse.ArgumentParser(prog="launch resume", description="Continue a run.")
    parser.add_argument("run", help="folder of the run")
    add_overrides(parser)
    add_shape(parser)
    options = parse(parser, arguments)
    run_url = files.absolute(options.run)
    require_run(run_url)
    loaded = load_frozen(
        files.join(run_url, RECIPE),
        options.overrides,
        nodes=options.nodes,
        nproc_per_node=options.nproc_per_node,
    )
    # Rank 0 takes the lock for the whole run; taking it here only reports early that another process has it.
    if (lock := lock_run(run_url, LOCK_WAIT_S)) is not None:
        lock.close()
    with loaded.locating():
        check_sources(loaded.recipe.data)
    from launcher.checkpoint.identity import (
        check_data,
        check_identity,
        check_model,
        check_source,
        describe_data,
    )
    from launcher.checkpoint.restore import saved_recipe
    from launcher.cli.tracking import mlflow_environment
    from launcher.plan.parameters import meta_shapes
    from launcher.submit import freeze_and_submit, prepare

    with loaded.locating():
        prepared = prepare(loaded.recipe, run_url, env=mlflow_environment())
    saved, rejected = find_newest(run_url, verify=False)
    if saved is not None and saved.step >= loaded.recipe.train.steps:
        # The ranks verify what they load. Before "complete" is said, nobody would.
        saved, rejected = find_newest(run_url, verify=True)
    for bad in rejected:
        print(f"passing over {bad.url}: {bad.reason}")
    if saved is None:
        print("no checkpoint yet: starting from step 0")
    else:
        parameters = prepared.plan.parameters
        before = saved_recipe(saved)
        check_model(saved, meta_shapes(before.model), parameters.shapes)
        check_identity(saved, parameters)
        check_source(saved, before.data, loaded.recipe.data)
        # The ranks read the data and compare its content; here only its description is compared.
        check_data(saved, describe_data(loaded.recipe, saved.manifest.data.fingerprint))
        if saved.step >= loaded.recipe.train.steps:
            print(f"{run_url} is complete: step {saved.step} of {loaded.recipe.train.steps}")
            print(f"to train longer: launch resume {run_url} train.steps={2 * saved.step}")
            return 0
        print(f"resuming from step {saved.step} of {loaded.recipe.train.steps}")
    show_hints(find_hints(loaded))
    return freeze_and_submit(prepared, source=None)
