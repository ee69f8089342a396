"""Recipe text, overrides and flags -> one typed recipe, or every problem at once. Torch-free."""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cluster.config import ClusterConfig
from cluster.devices import usable_cpus, visible_gpus
from launcher.errors import Problem, UserError
from launcher.recipe.auto_ranks import resolve_processes
from launcher.recipe.extended import recipe_type
from launcher.recipe.loaded import LoadedRecipe, SourceText
from launcher.recipe.overrides import Nodes, apply_flags, apply_overrides
from launcher.recipe.profile import apply_profile
from launcher.recipe.renamed import with_new_names
from launcher.recipe.rules.rule_table import check_rules
from launcher.recipe.schema import Recipe
from launcher.recipe.suggest import close_matches, did_you_mean
from launcher.recipe.tree import Key, Node, dotted, plain
from launcher.recipe.validation_errors import Explainer
from launcher.shipped import find_recipe, shipped_recipes
from launcher.yaml_text import decode, dump_yaml, parse_tree

MAX_PROBLEMS = 20
"""Most problems shown at once: about one screen."""
MAX_VALUES = 5_000
"""Most keys and values of a recipe: with more it is another file, and its mistakes would take minutes."""
MAX_BYTES = 1 << 20
MAX_EXPLAINED = 60
"""Most mistakes looked into at once: each is compared with every key there is, and a screen shows 20."""
_ROUNDS = 5
"""Most validations in a row: misspelled sections are not nested deeper than this."""


def load_recipe(
    path: str, overrides: Sequence[str] = (), *, nodes: Nodes | None = None, nproc_per_node: int | None = None
) -> LoadedRecipe:
    """Read and check a recipe file, or the shipped one of that name. Raises UserError with every problem."""
    path = find_recipe(path)
    return compile_recipe(_read(path), path, overrides, nodes=nodes, nproc_per_node=nproc_per_node)


def compile_recipe(
    text: str,
    name: str,
    overrides: Sequence[str] = (),
    *,
    nodes: Nodes | None = None,
    nproc_per_node: int | None = None,
) -> LoadedRecipe:
    """Check the text of a recipe, called `name` in messages. Raises UserError with every problem found."""
    return _compile(
        *parse_tree(text, name, most=MAX_VALUES),
        SourceText(name, text, tuple(overrides)),
        nodes,
        nproc_per_node,
    )


def load_frozen(
    url: str, overrides: Sequence[str] = (), *, nodes: Nodes | None = None, nproc_per_node: int | None = None
) -> LoadedRecipe:
    """Read and check the recipe of a run folder, which an earlier version may have written.

    Raises DamagedRecipeError, and UserError with every problem found.
    """
    from launcher import files  # fsspec: not for the check of a recipe

    text = _unseal(files.read_bytes(url), url)
    return load_frozen_text(text, url, overrides, nodes=nodes, nproc_per_node=nproc_per_node)


def load_frozen_text(
    text: str,
    name: str,
    overrides: Sequence[str] = (),
    *,
    nodes: Nodes | None = None,
    nproc_per_node: int | None = None,
) -> LoadedRecipe:
    """The same for the text of `dump_recipe`, perhaps of an earlier version."""
    tree, problems = parse_tree(text, name, most=MAX_VALUES)
    source = SourceText(name, text, tuple(overrides))
    return _compile(with_new_names(tree), problems, source, nodes, nproc_per_node)


class DamagedRecipeError(UserError):
    """A run's recipe is not what was frozen."""


_FROZEN = "# Frozen. To change it: launch resume RUN key=value. sha256 of what follows: "


def seal_recipe(text: str) -> str:
    """A recipe as it is frozen: a resume with one that has changed since would not be the same run."""
    return f"{_FROZEN}{hashlib.sha256(text.encode()).hexdigest()}\n{text}"


def _unseal(content: bytes, url: str) -> str:
    # Earlier versions wrote no such line.
    if content.startswith(_FROZEN.encode()):
        head, _, text = content.partition(b"\n")
        if head[len(_FROZEN) :].decode(errors="replace") != hashlib.sha256(text).hexdigest():
            message = "is not what was frozen: it was changed, or is damaged"
            remedy = (
                "give changes as `launch resume RUN key=value`, which takes the newest checkpoint's recipe"
            )
            raise DamagedRecipeError(Problem(url, message, remedy))
    if not content.strip():
        raise DamagedRecipeError(Problem(url, "is empty", "launch resume RUN takes the newest checkpoint's"))
    try:
        return decode(content, url)
    except UserError as error:
        raise DamagedRecipeError(*error.problems) from None


def _compile(
    tree: Node, problems: list[Problem], source: SourceText, nodes: Nodes | None, nproc_per_node: int | None
) -> LoadedRecipe:
    # Text, overrides and flags become one tree first. So an override is checked exactly as if it were written
    # in the file, and the place of each value goes with it into the messages.
    if not isinstance(tree.value, dict):
        message = "a recipe is `key: value` lines, this is " + (
            "a list" if isinstance(tree.value, list) else "one value"
        )
        raise UserError(Problem(tree.place, message, f"its sections are {', '.join(Recipe.model_fields)}"))
    # Flags last: --nproc-per-node says what is started now, whatever was written before.
    tree, found = apply_overrides(tree, source.overrides)
    problems += found
    tree, found = apply_profile(tree, ClusterConfig.model_fields)
    problems += found
    tree = apply_flags(tree, nodes, nproc_per_node)
    tree, found = resolve_processes(tree, visible_gpus, usable_cpus)
    problems += found
    problems += _non_finite(tree)
    recipe, tree, found = _validate(tree, recipe_type(tree))
    problems += found
    problems += _empty(tree) if recipe is not None else ()
    if recipe is None or problems:
        raise UserError(*_one_screen(problems))
    # Rules compare values of several sections, so they need a recipe whose values are all right by
    # themselves.
    loaded = LoadedRecipe(recipe=recipe, source=source, tree=tree)
    if found := check_rules(loaded):
        raise UserError(*_one_screen(found))
    return loaded


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML that can be loaded again, with all keys and with the overrides applied."""
    return dump_yaml(recipe.model_dump(mode="json"))


def read_frozen(text: str, name: str) -> LoadedRecipe:
    """The recipe that `dump_recipe` wrote. Rules are not checked again: this machine may lack a package."""
    tree = with_new_names(parse_tree(text, name)[0])
    recipe = recipe_type(tree).model_validate_json(json.dumps(plain(tree)))
    return LoadedRecipe(recipe=recipe, source=SourceText(name, text, ()), tree=tree)


def recipe_schema(extensions: Sequence[str] = ()) -> dict[str, Any]:
    """The JSON Schema of a recipe, for editors."""
    from launcher.recipe.extended import extended_recipe
    from launcher.recipe.json_schema import editor_schema  # 10 ms that no other verb should pay

    return editor_schema(extended_recipe(tuple(extensions)) if extensions else Recipe)


def _validate(tree: Node, kind: type[Recipe]) -> tuple[Recipe | None, Node, list[Problem]]:
    """Validate, replace each mistake by what was most likely meant, and validate the result again.

    All problems should be reported at once, but some mistakes hide others: pydantic does not look into an
    unknown section, or at the keys next to an unknown `type`. With `modle: {d_modle: x}`, round 1 reports
    that `modle` is unknown and `model` is missing, which is one mistake: it is read as `model`. Round 2 finds
    `d_modle` and reads it as `d_model`. Round 3 finds that x is not a number, where there is nothing to
    guess: this is the last round, and three problems are reported. Guesses only serve the messages: a recipe
    with a mistake is refused. (500M for a whole number is not a mistake, and is replaced in the same way.)
    """
    explainer: Explainer | None = None
    settled: list[Problem] = []
    for _ in range(_ROUNDS):
        try:
            # The JSON mode is strict about kinds and yet takes an array for a tuple, an int for a float.
            return kind.model_validate_json(json.dumps(plain(tree))), tree, settled
        except ValidationError as error:
            explainer = explainer or Explainer(kind.model_json_schema())
            report = explainer.explain(tree, error.errors(include_url=False)[:MAX_EXPLAINED])
        # Guessed problems will not be found again. The others will, and come from the last round.
        settled += report.guessed
        if report.guess is tree:
            return None, tree, settled + report.remaining
        tree = report.guess
    return None, tree, settled + report.remaining


def _non_finite(node: Node, path: tuple[Key, ...] = ()) -> Iterator[Problem]:
    """YAML can express infinity and NaN; no number in a recipe may be one."""
    # Before validation: pydantic would accept infinity wherever there is no upper limit.
    if isinstance(node.value, dict):
        for key, inner in node.value.items():
            yield from _non_finite(inner, (*path, key))
    elif isinstance(node.value, list):
        for index, item in enumerate(node.value):
            yield from _non_finite(item, (*path, index))
    elif isinstance(node.value, float) and not isfinite(node.value):
        yield Problem(node.place, f"{dotted(path)} is {node.text}", "write a finite number")


def _empty(node: Node, path: tuple[Key, ...] = ()) -> Iterator[Problem]:
    """A key with nothing after it, where null would be taken: it may have been meant to have a value."""
    # `grad_clip:` would turn clipping off without a word.
    if isinstance(node.value, dict):
        for key, inner in node.value.items():
            yield from _empty(inner, (*path, key))
    elif node.value is None and not node.text:
        remedy = "write null for none, or remove the line for the default"
        yield Problem(node.key_place, f"{dotted(path)} is empty", remedy)


def _one_screen(problems: Sequence[Problem]) -> list[Problem]:
    """The problems in the order of the file, each once, at most MAX_PROBLEMS of them."""
    kept = list(dict.fromkeys(sorted(problems, key=_position)))
    if len(kept) <= MAX_PROBLEMS:
        return kept
    rest = len(kept) - MAX_PROBLEMS
    place = kept[0].place.partition(":")[0]
    least = "at least " if rest >= MAX_EXPLAINED - MAX_PROBLEMS else ""
    return [*kept[:MAX_PROBLEMS], Problem(place, f"and {least}{rest} more problem{'s' * (rest > 1)}")]


def _position(problem: Problem) -> tuple[int, int]:
    # Overrides and flags have no line, and come after the file.
    found = re.search(r":(\d+):(\d+)$", problem.place)
    return (int(found[1]), int(found[2])) if found else (1 << 30, 0)


def _read(path: str) -> str:
    """The text of a recipe file. Raises UserError that names the most similar file if there is none."""
    try:
        if Path(path).is_file() and (size := Path(path).stat().st_size) > MAX_BYTES:
            message = f"has {size:,} bytes; a recipe has at most {MAX_BYTES:,}"
            raise UserError(Problem(path, message, "give the file of a recipe; data belong into files"))
        content = Path(path).read_bytes()
    except FileNotFoundError:
        raise UserError(Problem(path, "no such recipe", _nearest_file(Path(path)))) from None
    except IsADirectoryError:
        raise UserError(Problem(path, "is a folder, not a recipe", _listing(Path(path)))) from None
    except OSError as error:
        raise UserError(
            Problem(path, f"cannot be read: {error.strerror or error}", "check its permissions")
        ) from None
    except ValueError:  # a NUL inside the path
        raise UserError(Problem(repr(path), "is not a path", "give the path of a recipe")) from None
    return decode(content, path)


def _nearest_file(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        near = close_matches(path.stem, list(shipped_recipes()))
        return did_you_mean(near) or f"there is no folder {folder} in {Path.cwd()}"
    names = {found.stem: found for found in sorted(folder.glob("*.y*ml"))}
    matches = close_matches(path.stem, names)
    return did_you_mean(str(names[match]) for match in matches) or _listing(folder)


def _listing(folder: Path) -> str:
    names = sorted(found.name for found in folder.glob("*.y*ml"))
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return f"recipes in {folder}: {shown}" if names else f"there are no recipes in {folder}"
