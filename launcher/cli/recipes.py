"""`launch validate`, `launch recipes` and `launch diff`: about recipes, without training one. Torch-free."""

import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from launcher.cli.parser import Parser
from launcher.cli.problems import problem_records, shown_lines, wants_colour
from launcher.errors import Problem, UserError
from launcher.recipe.compile import load_frozen, load_recipe
from launcher.recipe.loaded import LoadedRecipe
from launcher.table import table_lines


def validate_recipes(arguments: Sequence[str]) -> int:
    """Check recipes; prints a line for each, and every problem. Returns 2 if one has any."""
    parser = Parser(
        prog="launch validate", description="Check recipes: every key, value and rule. Reads no data."
    )
    parser.add_argument("recipes", nargs="+", metavar="RECIPE", help="recipe files, and key=value for all")
    parser.add_argument("--json", action="store_true", help="print the problems as JSON")
    options = parser.parse_args(arguments)
    overrides = [word for word in options.recipes if "=" in word and not word.endswith((".yaml", ".yml"))]
    paths = [word for word in options.recipes if word not in overrides]
    found = {path: _problems(path, overrides) for path in paths}
    if options.json:
        records = {path: problem_records(problems) for path, problems in found.items()}
        print(json.dumps(records, indent=1, ensure_ascii=False))
    else:
        for path, problems in found.items():
            print(f"{path}: {'ok' if not problems else f'{len(problems)} problem(s)'}", flush=True)
            for line in shown_lines(problems, colour=wants_colour()):
                print(line, file=sys.stderr)
    return 2 if any(found.values()) else 0


def _problems(path: str, overrides: Sequence[str]) -> Sequence[Problem]:
    try:
        load_recipe(path, overrides)
    except UserError as error:
        return error.problems
    return []


def list_recipes(arguments: Sequence[str]) -> int:
    """Print a line for each recipe in a folder."""
    parser = Parser(prog="launch recipes", description="A line for each recipe.")
    parser.add_argument("folder", nargs="?", default="recipes", help="default: recipes")
    folder = Path(parser.parse_args(arguments).folder)
    if not folder.is_dir():
        raise UserError(Problem(str(folder), "is not a folder", "call it where recipes/ is, or name one"))
    rows = [_row(path) for path in sorted(folder.glob("*.y*ml"))]
    if not rows:
        print(f"there are no recipes in {folder}")
        return 0
    print("\n".join(table_lines([["recipe", "model", "data", "steps", "about"], *rows])))
    return 0


def _row(path: Path) -> list[str]:
    try:
        loaded = load_recipe(str(path))
    except UserError as error:
        return [str(path), "", "", "", f"{len(error.problems)} problem(s): launch validate {path}"]
    model, recipe = loaded.recipe.model, loaded.recipe
    mixers = "+".join(dict.fromkeys(model.pattern))
    shape = f"{mixers} {model.num_layers} x {model.d_model}"
    return [str(path), shape, recipe.data.source.type, f"{recipe.train.steps:,}", _about(loaded)]


def _about(loaded: LoadedRecipe) -> str:
    """The first comment that says something."""
    for line in loaded.source.text.splitlines():
        if not line.startswith("#"):
            break
        if "yaml-language-server" not in line and (text := line.strip("# ")):
            return re.split(r"(?<=\.)\s|:\s", text)[0].rstrip(".")[:70]
    return ""


def diff_recipes(arguments: Sequence[str]) -> int:
    """Print the values in which two recipes or runs differ, resolved. Returns 1 if any does."""
    parser = Parser(
        prog="launch diff",
        description="The values in which two recipes or runs differ, defaults included; exit code 1 if any.",
    )
    parser.add_argument("first", help="recipe file, or folder of a run")
    parser.add_argument("second", nargs="?", help="another one; default: the file that a run was made from")
    options = parser.parse_args(arguments)
    first = _load(options.first)
    second = _load(options.second) if options.second is not None else _source_of(options.first)
    rows = diff_rows(first.recipe.model_dump(mode="json"), second.recipe.model_dump(mode="json"))
    if not rows:
        print(f"{first.source.path} and {second.source.path} are the same recipe")
        return 0
    print("\n".join(table_lines([["", first.source.path, second.source.path], *rows])))
    return 1


def _load(place: str) -> LoadedRecipe:
    from launcher import files
    from launcher.run_folder import RECIPE, is_run

    if Path(place).is_dir() or "://" in place:
        url = files.absolute(place)
        if not is_run(url):
            raise UserError(Problem(place, "is a folder, and not a run", "give a recipe file or a run"))
        return load_frozen(files.join(url, RECIPE))
    return load_recipe(place)


def _source_of(place: str) -> LoadedRecipe:
    """The recipe file that a run was started from, as it is now."""
    from launcher import files
    from launcher.run_folder import SOURCE

    url = files.join(files.absolute(place), SOURCE)
    if not files.exists(url):
        raise UserError(Problem(place, "does not say what it was made from", "name the second recipe"))
    path = files.read_text(url).splitlines()[0].removeprefix("# ")
    return load_recipe(path)


def diff_rows(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[list[str]]:
    """A row of (key, value, value) for each difference; a key that one lacks has a dash."""
    ours, theirs = _flat(first), _flat(second)
    keys = dict.fromkeys([*ours, *theirs])
    return [
        [key, ours.get(key, "-"), theirs.get(key, "-")] for key in keys if ours.get(key) != theirs.get(key)
    ]


def _flat(tree: Mapping[str, Any], above: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            found |= _flat(value, f"{above}{key}.")
        else:
            found[f"{above}{key}"] = json.dumps(value, ensure_ascii=False).strip('"')
    return found
