"""`launch RECIPE` and `launch plan RECIPE`."""

import argparse
import itertools
import json
import time
from collections.abc import Iterator, Sequence

from launcher import files
from launcher.check.gate import require_passed
from launcher.checkpoint.catalog import open_saved
from launcher.cli.arguments import add_overrides, add_profile, add_shape, parse, show_hints, with_profile
from launcher.cli.parser import Parser
from launcher.cli.recipe_or_run import A_RECIPE, load_recipe_or_run
from launcher.json_text import dump_json
from launcher.recipe.compile import load_recipe
from launcher.recipe.hints import find_hints
from launcher.recipe.loaded import LoadedRecipe
from launcher.run_folder import claim, require_new, unclaim


def run_recipe(arguments: Sequence[str]) -> int:
    """Start a new run: freeze its recipe in its folder, then train here or submit a job."""
    parser = Parser(prog="launch", description="Start a new run of a recipe.")
    parser.add_argument("recipe", help="recipe file")
    add_overrides(parser)
    add_shape(parser)
    add_profile(parser)
    parser.add_argument("--run-dir", metavar="URL", help="folder of the run; default runs/NAME-TIME")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and the script; start nothing")
    parser.add_argument(
        "--init-from",
        metavar="CHECKPOINT",
        help="start with the weights of this checkpoint, or run's newest one",
    )
    options = parse(parser, arguments)
    if options.init_from is not None:
        options.overrides.append(f"train.init_from={json.dumps(open_saved(options.init_from).url)}")
    loaded = _load(options)
    if loaded.source.path != options.recipe:
        print(f"recipe: {loaded.source.path}, which is shipped: no file here is called {options.recipe}")
    places = new_places(options.run_dir, loaded.recipe.name)
    if options.dry_run:
        return _show(loaded, next(places))
    return start_run(loaded, places, options.recipe)


def new_places(run_dir: str | None, name: str) -> Iterator[str]:
    """Where a new run may go: what was asked for, else the first free one of the names of this second.

    Raises UserError where that is taken.
    """
    if run_dir is not None:
        place = files.absolute(run_dir)
        require_new(place)
        return iter([place])
    place = files.absolute(f"runs/{name}-{time.strftime('%Y%m%d-%H%M%S')}")
    return itertools.chain([place], (f"{place}-{number}" for number in itertools.count(2)))


def start_run(loaded: LoadedRecipe, places: Iterator[str], path: str) -> int:
    """Check what can be checked, then start in the first free place; `path` is where the recipe was read."""
    # Whatever can be refused is refused before the folder is written or a job is queued.
    with loaded.locating():
        from launcher.cli.data_check import check_data

        check_data(loaded.recipe)
        show_hints(find_hints(loaded))
        require_passed(loaded.recipe, path)
        from launcher.cli.tracking import check_store, run_environment, store_hints
        from launcher.submit import ask_scheduler, check_space, freeze_and_submit, prepare

        check_store(loaded.recipe.track.mlflow)
        show_hints(store_hints(loaded.recipe.track.mlflow))
        run_url = _claim_first(places)
        try:
            prepared = prepare(loaded.recipe, run_url, env=run_environment())
            show_hints(check_space(prepared))
            show_hints(ask_scheduler(prepared))
            if loaded.recipe.train.init_from is not None:
                from launcher.checkpoint.fork import open_source

                open_source(loaded.recipe.train.init_from, prepared.plan.parameters)
        except BaseException:
            unclaim(run_url)
            raise
    return freeze_and_submit(prepared, source=_source_text(loaded))


def _claim_first(places: Iterator[str]) -> str:
    """The first folder that no other process has, or takes at this moment; this process's from now on."""
    for run_url in places:
        if claim(run_url):
            return run_url
    require_new(run_url)
    raise AssertionError(f"{run_url} is free, and cannot be claimed")


def plan_recipe(arguments: Sequence[str]) -> int:
    """Print the plan of a recipe."""
    parser = Parser(prog="launch plan", description="Print every derived number; start nothing.")
    parser.add_argument("recipe", help=A_RECIPE)
    add_overrides(parser)
    add_shape(parser)
    add_profile(parser)
    parser.add_argument("--full", action="store_true", help="all values, defaults too, and the script")
    parser.add_argument("--json", action="store_true", help="the plan as in a run folder's plan.json")
    parser.add_argument(
        "--compare",
        nargs="+",
        metavar="key=value,value",
        help="a row for each combination, such as nodes=1,2,8 parallel.strategy=fsdp2,hsdp",
    )
    options = parse(parser, arguments)
    changes, shape = with_profile(options.overrides, options.profile), (options.nodes, options.nproc_per_node)
    if options.compare:
        from launcher.cli.compare import compare_plans

        print("\n".join(compare_plans(options.recipe, changes, options.compare, *shape)))
        return 0
    loaded = load_recipe_or_run(options.recipe, changes, nodes=shape[0], nproc_per_node=shape[1])
    run_url = files.absolute(f"runs/{loaded.recipe.name}")
    return _show(loaded, run_url, full=options.full, as_json=options.json)


def _load(options: argparse.Namespace) -> LoadedRecipe:
    overrides = with_profile(options.overrides, options.profile)
    return load_recipe(options.recipe, overrides, nodes=options.nodes, nproc_per_node=options.nproc_per_node)


def _show(loaded: LoadedRecipe, run_url: str, *, full: bool = True, as_json: bool = False) -> int:
    from launcher.cli.data_check import data_supply
    from launcher.cli.tracking import run_environment
    from launcher.data.supply import supply_lines
    from launcher.plan.plan_record import plan_record
    from launcher.plan.plan_text import plan_text
    from launcher.submit import prepare

    with loaded.locating():
        supply = data_supply(loaded.recipe)
        prepared = prepare(loaded.recipe, run_url, env=run_environment(), only_show=True)
    if as_json:
        print(dump_json(plan_record(prepared.plan), indent=1))
        return 0
    print(plan_text(prepared.recipe, prepared.plan, full=full))
    if supply:
        print("\n".join([*supply_lines(supply, loaded.recipe.data.seq_len), ""]))
    show_hints(find_hints(loaded))
    if full:
        print("script\n" + "\n".join("  " + line for line in prepared.script.splitlines()))
    else:
        print("all values, defaults too, and the script: --full")
    return 0


def _source_text(loaded: LoadedRecipe) -> str:
    overrides = "".join(f"# override: {override}\n" for override in loaded.source.overrides)
    return f"# {loaded.source.path}\n{overrides}{loaded.source.text}"
