"""Building blocks of rules: problems that cite the values they compare, and common kinds of rules."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from launcher.errors import Problem
from launcher.plan.batch import largest_divisor
from launcher.plan.worlds import planned_ranks
from launcher.recipe.loaded import LoadedRecipe


@dataclass(frozen=True, slots=True)
class Rule:
    """One condition on every recipe. The docstring of `check` states it; `check` yields its violations."""

    id: str
    """Shown in messages and docs/rules.md; it stays when the wording changes."""
    check: Callable[[LoadedRecipe], Iterator[Problem]]


def refuse(loaded: LoadedRecipe, key: str, message: str, remedy: str) -> Problem:
    """A problem with a key. `<section.key>` in the message becomes that key's value and its place.

    "<train.steps> is too few" -> "train.steps = 40 (small.yaml:26:10) is too few". The place of `key` itself
    is left out, because the message starts with it.
    """
    # A rule compares two values, and the wrong one is often not the one that is refused: the reader needs
    # both places to choose which one to change.
    place = loaded.place(key)
    cited = re.sub(r"<([\w.]+)>", lambda found: loaded.cite(found[1]).removesuffix(f" ({place})"), message)
    return Problem(place, cited, remedy)


def only_for(
    loaded: LoadedRecipe, key: str, other: str, allowed: Sequence[str], remedy: str
) -> Iterator[Problem]:
    """A is only for B: refuse `key` if it is given and `other` has none of the allowed values."""
    # null and false count as not given: `cpu_offload: false` is right under any engine.
    value = loaded.value(key)
    if value is not None and value is not False and loaded.value(other) not in allowed:
        needed = f"{other.rpartition('.')[2]} {' or '.join(allowed)}"
        yield refuse(loaded, key, f"<{key}> is only for {needed}, but <{other}>", remedy)


def divides(loaded: LoadedRecipe, key: str, total: int, what: str) -> Iterator[Problem]:
    """A divides B: refuse a number that does not divide `total`, which is called `what`."""
    number = loaded.value(key)
    if number is not None and total % number:
        remedy = f"use {largest_divisor(total, number)}"
        yield refuse(loaded, key, f"<{key}> does not divide {what}", remedy)


def below(
    loaded: LoadedRecipe, key: str, other: str, remedy: str, *, or_equal: bool = False
) -> Iterator[Problem]:
    """A is below B: refuse a number that is not, if `other` has a value."""
    number, limit = loaded.value(key), loaded.value(other)
    if limit is not None and (number > limit if or_equal else number >= limit):
        relation = "at most" if or_equal else "below"
        yield refuse(loaded, key, f"<{key}> must be {relation} <{other}>", remedy)


def room_for(loaded: LoadedRecipe, key: str, least: int | None, what: str) -> Iterator[Problem]:
    """A has room for B: refuse a number below `least`, if both are known."""
    number = loaded.value(key)
    if number is not None and least is not None and number < least:
        yield refuse(loaded, key, f"<{key}> is too small for the {least} {what}", f"use {least} or more")


def describe_world(loaded: LoadedRecipe) -> str:
    """The number of ranks and where it is set, for the message of `refuse`."""
    return f"{planned_ranks(loaded.recipe)} ranks: <cluster.nodes> x <cluster.nproc_per_node>"
