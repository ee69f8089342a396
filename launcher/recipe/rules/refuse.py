"""What rules are made of: a problem that cites the values it compares, and the common kinds of refusal."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from launcher.errors import Problem
from launcher.plan.batch import largest_divisor
from launcher.recipe.loaded import LoadedRecipe


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing that every recipe keeps. `check` says in its docstring what, and finds where it is broken."""

    id: str
    """Stands in messages and in docs/rules.md, and stays when the wording changes."""
    check: Callable[[LoadedRecipe], Iterator[Problem]]


def refuse(loaded: LoadedRecipe, key: str, message: str, remedy: str) -> Problem:
    """A problem with a key. `<section.key>` in the message becomes that key's value and where it is written.

    "<train.steps> is too few" -> "train.steps = 40 (small.yaml:26:10) is too few". The place of `key` itself
    is left out: it stands in front of the message.
    """
    place = loaded.place(key)
    cited = re.sub(r"<([\w.]+)>", lambda found: loaded.cite(found[1]).removesuffix(f" ({place})"), message)
    return Problem(place, cited, remedy)


def only_for(
    loaded: LoadedRecipe, key: str, other: str, allowed: Sequence[str], remedy: str
) -> Iterator[Problem]:
    """A is only for B: refuse `key` where it is given while `other` has none of the allowed values."""
    value = loaded.value(key)
    if value is not None and value is not False and loaded.value(other) not in allowed:
        needed = f"{other.rpartition('.')[2]} {' or '.join(allowed)}"
        yield refuse(loaded, key, f"<{key}> is only for {needed}, but <{other}>", remedy)


def divides(loaded: LoadedRecipe, key: str, total: int, what: str) -> Iterator[Problem]:
    """A does not divide B: refuse a number that leaves a rest of `total`, which `what` names."""
    number = loaded.value(key)
    if number is not None and total % number:
        remedy = f"use {largest_divisor(total, number)}"
        yield refuse(loaded, key, f"<{key}> does not divide {what}", remedy)


def below(
    loaded: LoadedRecipe, key: str, other: str, remedy: str, *, or_equal: bool = False
) -> Iterator[Problem]:
    """A must be below B: refuse a number that is not, where `other` has one."""
    number, limit = loaded.value(key), loaded.value(other)
    if limit is not None and (number > limit if or_equal else number >= limit):
        relation = "at most" if or_equal else "below"
        yield refuse(loaded, key, f"<{key}> must be {relation} <{other}>", remedy)


def room_for(loaded: LoadedRecipe, key: str, least: int | None, what: str) -> Iterator[Problem]:
    """A is too small for B: refuse a number below `least`, where both are known."""
    number = loaded.value(key)
    if number is not None and least is not None and number < least:
        yield refuse(loaded, key, f"<{key}> is too small for the {least} {what}", f"use {least} or more")


def describe_world(loaded: LoadedRecipe) -> str:
    """The number of ranks and where it comes from, for the message of `refuse`."""
    return f"{loaded.recipe.cluster.world_size} ranks: <cluster.nodes> x <cluster.nproc_per_node>"
