"""`launch validate`, `launch recipes` and `launch diff`: about recipes, without training one. Torch-free."""

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from launcher.cli.extend import write_extension
from launcher.cli.parser import Parser
from launcher.cli.problems import problem_records, shown_lines, wants_colour
from launcher.errors import Problem, UserError
from launcher.recipe.compile import load_recipe
from launcher.recipe.differences import diff_rows
from launcher.recipe.loaded import LoadedRecipe
from launcher.recipe.suggest import close_matches, did_you_mean
from launcher.shipped import shipped_recipes
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
            for line in shown_lines(problems, colour=wants_colour(sys.stderr)):
                print(line, file=sys.stderr)
    return 2 if any(found.values()) else 0


def _problems(path: str, overrides: Sequence[str]) -> Sequence[Problem]:
    try:
        load_recipe(path, overrides)
    except UserError as error:
        return error.problems
    return []


_COLUMNS = ["recipe", "model", "data", "steps", "about"]


def list_recipes(arguments: Sequence[str]) -> int:
    """Print a line for each recipe in a folder, or for each that is shipped."""
    parser = Parser(prog="launch recipes", description="A line for each recipe.")
    parser.add_argument(
        "folder", nargs="?", help="default: recipes where that is a folder, else what the product ships"
    )
    parser.add_argument("--json", action="store_true", help="a list of JSON")
    options = parser.parse_args(arguments)
    given = options.folder
    folder = Path(given or "recipes")
    if given is not None and not folder.is_dir():
        raise UserError(Problem(str(folder), "is not a folder", "without one, shipped recipes are listed"))
    if folder.is_dir():
        rows = [_row(str(path), path) for path in sorted(folder.glob("*.y*ml"))]
    else:
        rows = [_row(name, path) for name, path in shipped_recipes().items()]
    if options.json:
        print(json.dumps([dict(zip(_COLUMNS, row, strict=True)) for row in rows], indent=1))
        return 0
    if not rows:
        print(f"there are no recipes in {folder}")
        return 0
    print("\n".join(table_lines([_COLUMNS, *rows])))
    return 0


def copy_recipe(arguments: Sequence[str]) -> int:
    """Copy a shipped recipe into a file of the user's own; or begin an extension."""
    parser = Parser(
        prog="launch init",
        description="Copy a shipped recipe, to change it; or begin an extension: a package with a layer of "
        "your own and its tests.",
    )
    parser.add_argument("name", nargs="?", help="of a recipe; default: s4d-lm-quickstart")
    parser.add_argument("--extension", metavar="NAME", help="of a new package, instead of a recipe")
    parser.add_argument("-o", "--output", metavar="PATH", help="default: NAME.yaml, or folder NAME, here")
    options = parser.parse_args(arguments)
    if options.extension is not None:
        if options.name is not None:
            parser.error("give the name of a recipe or --extension NAME, not both")
        made = write_extension(options.extension, options.output)
        print("\n".join(map(str, made)))
        print(f"next: pip install -e './{made[0].parent}[test]'; pytest {made[0].parent}")
        return 0
    options.name = options.name or "s4d-lm-quickstart"
    shipped = shipped_recipes()
    name = Path(options.name).stem if options.name.endswith((".yaml", ".yml")) else options.name
    if name not in shipped:
        hint = did_you_mean(close_matches(name, list(shipped))) or "launch recipes lists them"
        raise UserError(Problem(f"launch init {options.name}", "no such recipe is shipped", hint))
    output = Path(options.output or f"{name}.yaml")
    try:
        with open(output, "x") as file:  # not over somebody's own
            file.write(shipped[name].read_text())
    except FileExistsError:
        raise UserError(Problem(str(output), "exists already", "choose another with -o FILE")) from None
    except OSError as error:
        raise UserError(Problem(str(output), f"cannot be written: {error.strerror}")) from None
    print(f"{output}: a copy of {shipped[name]}\nnext: launch {output}")
    return 0


def _row(name: str, path: Path) -> list[str]:
    try:
        loaded = load_recipe(str(path))
    except UserError as error:
        return [name, "", "", "", f"{len(error.problems)} problem(s): launch validate {path}"]
    model, recipe = loaded.recipe.model, loaded.recipe
    mixers = "+".join(dict.fromkeys(model.pattern))
    shape = f"{mixers} {model.num_layers} x {model.d_model}"
    return [name, shape, recipe.data.source.type, f"{recipe.train.steps:,}", _about(loaded)]


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
    from launcher.cli.recipe_or_run import load_recipe_or_run
    from launcher.run_folder import is_run

    if (Path(place).is_dir() or "://" in place) and not is_run(files.absolute(place)):
        raise UserError(Problem(place, "is a folder, and not a run", "give a recipe file or a run"))
    return load_recipe_or_run(place)


def _source_of(place: str) -> LoadedRecipe:
    """The recipe file that a run was started from, as it is now."""
    from launcher import files
    from launcher.cli.recipe_or_run import run_of
    from launcher.run_folder import SOURCE

    run = run_of(place)
    url = None if run is None else files.join(run, SOURCE)
    if url is None or not files.exists(url):
        raise UserError(Problem(place, "does not say what it was made from", "name the second recipe"))
    path = files.read_text(url).splitlines()[0].removeprefix("# ")
    return load_recipe(path)
