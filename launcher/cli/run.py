"""`launch RECIPE` and `launch plan RECIPE`."""

import argparse
import time
from collections.abc import Sequence

from launcher import files
from launcher.check.gate import require_passed
from launcher.cli.arguments import add_overrides, add_shape, parse, show_hints
from launcher.data.source_table import check_sources
from launcher.recipe.compile import load_recipe
from launcher.recipe.hints import find_hints
from launcher.recipe.loaded import LoadedRecipe
from launcher.run_folder import require_new


def run_recipe(arguments: Sequence[str]) -> int:
    """Start a new run: freeze its recipe in its folder, then train here or submit a job."""
    parser = argparse.ArgumentParser(prog="launch", description="Start a new run of a recipe.")
    parser.add_argument("recipe", help="recipe file")
    add_overrides(parser)
    add_shape(parser)
    parser.add_argument("--run-dir", metavar="URL", help="folder of the run; default runs/NAME-TIME")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and the script; start nothing")
    options = parse(parser, arguments)
    loaded = _load(options)
    run_url = files.absolute(
        default_folder(loaded.recipe.name) if options.run_dir is None else options.run_dir
    )
    if options.dry_run:
        return _show(loaded, run_url)
    return start_run(loaded, run_url, options.recipe)


def default_folder(name: str) -> str:
    """Where a run of a recipe of this name goes that is started now."""
    return f"runs/{name}-{time.strftime('%Y%m%d-%H%M%S')}"


def start_run(loaded: LoadedRecipe, run_url: str, path: str) -> int:
    """Check what can be checked, then start; `path` is where the recipe was read."""
    # Whatever can be refused is refused before the folder is written or a job is queued.
    require_new(run_url)
    with loaded.locating():
        check_sources(loaded.recipe.data)
        show_hints(find_hints(loaded))
        require_passed(loaded.recipe, path)
        from launcher.cli.tracking import run_environment
        from launcher.submit import freeze_and_submit, prepare

        prepared = prepare(loaded.recipe, run_url, env=run_environment())
    files.check_writable(run_url)
    return freeze_and_submit(prepared, source=_source_text(loaded))


def plan_recipe(arguments: Sequence[str]) -> int:
    """Print the plan of a recipe."""
    parser = argparse.ArgumentParser(
        prog="launch plan", description="Print every derived number; start nothing."
    )
    parser.add_argument("recipe", help="recipe file")
    add_overrides(parser)
    add_shape(parser)
    options = parse(parser, arguments)
    loaded = _load(options)
    return _show(loaded, files.absolute(f"runs/{loaded.recipe.name}"))


def _load(options: argparse.Namespace) -> LoadedRecipe:
    return load_recipe(
        options.recipe, options.overrides, nodes=options.nodes, nproc_per_node=options.nproc_per_node
    )


def _show(loaded: LoadedRecipe, run_url: str) -> int:
    from launcher.cli.tracking import run_environment
    from launcher.plan.plan_text import plan_text
    from launcher.submit import prepare

    with loaded.locating():
        prepared = prepare(loaded.recipe, run_url, env=run_environment(), only_show=True)
    print(plan_text(prepared.recipe, prepared.plan))
    show_hints(find_hints(loaded))
    print("script\n" + "\n".join("  " + line for line in prepared.script.splitlines()))
    return 0


def _source_text(loaded: LoadedRecipe) -> str:
    overrides = "".join(f"# override: {override}\n" for override in loaded.source.overrides)
    return f"# {loaded.source.path}\n{overrides}{loaded.source.text}"
