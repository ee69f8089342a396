"""`launch completion SHELL`: a script for the shell, which asks `launch complete LINE` what may follow."""

import contextlib
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from launcher.cli.parser import Parser
from launcher.named_runs import LATEST, RUNS
from launcher.run_folder import is_run

_BASH: Final = """\
_launch() {
  local IFS=$'\\n'
  COMPREPLY=( $(launch complete "${COMP_LINE:0:COMP_POINT}" 2>/dev/null) )
  [[ ${COMPREPLY[*]} == *= ]] && compopt -o nospace
}
complete -o default -F _launch launch
"""
_SCRIPTS: Final[Mapping[str, str]] = {
    "bash": _BASH,
    "zsh": f"autoload -U +X bashcompinit && bashcompinit\n{_BASH}",
    "fish": "complete -c launch -a '(launch complete (commandline -cp) 2>/dev/null)'\n",
}
_OF_RECIPES: Final = {"plan", "diff", "explain", "shapes", "trace", "check", "validate", "init", "sweep"}
_NOT_OF_RUNS: Final = {
    "validate",
    "init",
    "sweep",
    "recipes",
    "data",
    "profile",
    "doctor",
    "schema",
    "completion",
    "ui",
}
_OF_VALUES: Final = (_OF_RECIPES | {"resume", "eval"}) - {"init", "diff"}


def print_script(arguments: Sequence[str]) -> int:
    """For a shell's start-up file."""
    parser = Parser(
        prog="launch completion",
        description="Print what makes a shell complete verbs, recipes, runs, flags and keys of recipes. In "
        'bash or zsh: eval "$(launch completion bash)"; in fish: launch completion fish | source.',
    )
    parser.add_argument("shell", choices=sorted(_SCRIPTS))
    print(_SCRIPTS[parser.parse_args(arguments).shell], end="")
    return 0


def print_candidates(line: str, verbs: Sequence[str], run_verb: Callable[[Sequence[str]], int]) -> int:
    """What may stand in place of the last, unfinished word of a line; one a line."""
    words = line.split(" ")[1:]
    given = words[-1] if words else ""
    found = dict.fromkeys(
        one for one in _candidates(words[:-1], given, verbs, run_verb) if one.startswith(given)
    )
    # Bash takes the part after a colon or equals sign for a word of its own.
    cut = max(given.rfind("="), given.rfind(":")) + 1
    print("".join(f"{one[cut:]}\n" for one in found), end="")
    return 0


def _candidates(
    before: Sequence[str], given: str, verbs: Sequence[str], run_verb: Callable[[Sequence[str]], int]
) -> Iterator[str]:
    if not before:
        yield from [*verbs, *_recipes()]
        return
    verb = before[0] if before[0] in verbs else ""
    if given.startswith("-"):
        yield from _flags([verb or "x.yaml"], run_verb)
    elif len(before) == 1 and verb:
        yield from _recipes() if verb in _OF_RECIPES else ()
        yield from () if verb in _NOT_OF_RUNS else _runs()
    elif not verb or verb in _OF_VALUES:
        yield from recipe_keys()


def _recipes() -> Iterator[str]:
    from launcher.shipped import shipped_recipes

    yield from shipped_recipes()


def _runs() -> Iterator[str]:
    yield LATEST
    yield from (place.name for place in sorted(RUNS.glob("*")) if is_run(str(place)))


def _flags(words: Sequence[str], run_verb: Callable[[Sequence[str]], int]) -> Iterator[str]:
    """In the help of a verb."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
        run_verb([*words, "--help"])
    yield from re.findall(r"(?<![\w-])--[a-z][\w-]*", shown.getvalue().partition("\nexamples:")[0])


def recipe_keys() -> Iterator[str]:
    """Every key that a recipe may have, as `optim.lr=`; with its values, where they are few."""
    from launcher.recipe.schema import Recipe
    from launcher.recipe.schema_walk import Shape

    shape = Shape(Recipe.model_json_schema())
    yield from _below(shape, shape.root, "")


def _below(shape: Any, schema: Mapping[str, Any], prefix: str) -> Iterator[str]:
    from launcher.recipe.schema_walk import allowed

    schema = shape.deref(schema)
    for variant in shape.variants(schema).values() or [schema]:
        for key, inner in variant.get("properties", {}).items():
            found = shape.deref(inner)
            if "properties" in found or shape.variants(found):
                yield from _below(shape, found, f"{prefix}{key}.")
                continue
            yield f"{prefix}{key}="
            values = ["true", "false"] if found.get("type") == "boolean" else allowed(found)
            yield from (f"{prefix}{key}={value}" for value in values)
