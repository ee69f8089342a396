"""What verbs that take a recipe accept as well: a run, whose frozen recipe is meant."""

from collections.abc import Sequence
from pathlib import Path

from launcher import files
from launcher.named_runs import LATEST, RUNS, find_run
from launcher.recipe.compile import load_frozen, load_recipe
from launcher.recipe.loaded import LoadedRecipe
from launcher.recipe.overrides import Nodes
from launcher.run_folder import RECIPE, is_run
from launcher.shipped import find_recipe

A_RECIPE = "recipe file, name of a shipped one, or a run: its folder, its name in runs/, or latest"


def load_recipe_or_run(
    word: str, overrides: Sequence[str] = (), *, nodes: Nodes | None = None, nproc_per_node: int | None = None
) -> LoadedRecipe:
    """A file or a shipped recipe comes first. Raises UserError as load_recipe does."""
    run = run_of(word)
    if run is None:
        return load_recipe(word, overrides, nodes=nodes, nproc_per_node=nproc_per_node)
    return load_frozen(files.join(run, RECIPE), overrides, nodes=nodes, nproc_per_node=nproc_per_node)


def run_of(word: str) -> str | None:
    """The run that a word means; None where it is not one, or a recipe's."""
    if Path(find_recipe(word)).is_file():
        return None
    named = word == LATEST or (RUNS / word).is_dir() or Path(word).is_dir() or "://" in word
    url = find_run(word) if named else None
    return url if url is not None and is_run(url) else None
