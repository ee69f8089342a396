"""A checked recipe that keeps the place where each of its values was written."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel

from launcher.errors import Problem, UserError
from launcher.recipe.schema import Recipe
from launcher.recipe.tree import Node, find, nearest, split_key


@dataclass(frozen=True, slots=True)
class SourceText:
    """What the user gave: a recipe and its overrides."""

    path: str
    text: str
    overrides: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LoadedRecipe:
    """One recipe, its source, and the place of every value. Keys are dotted: optim.betas.1."""

    recipe: Recipe
    source: SourceText
    tree: Node

    def value(self, key: str) -> Any:
        """The value at a key."""
        value: Any = self.recipe
        for part in split_key(key):
            value = getattr(value, str(part)) if isinstance(value, BaseModel) else value[part]
        return value

    def place(self, key: str) -> str:
        """The "file:line:column", override or flag that sets a value; for a default, that of its section."""
        path = split_key(key)
        found = find(self.tree, path)
        return found.place if found is not None else nearest(self.tree, path).key_place

    def cite(self, key: str) -> str:
        """A value and where it comes from: `train.steps = 40 (override 'train.steps=40')`."""
        found = find(self.tree, split_key(key))
        return f"{key} = {as_written(self.value(key))} ({found.place if found is not None else 'default'})"

    @contextmanager
    def locating(self) -> Iterator[None]:
        """Give every problem raised inside the place where its key was written."""
        # Code below the recipe (data, plan, mup) reports a key such as data.seq_len and does not know the
        # file. This turns it into "small.yaml:12:12".
        try:
            yield
        except UserError as error:
            raise UserError(*map(self._locate, error.problems)) from None

    def _locate(self, problem: Problem) -> Problem:
        if not problem.key:
            return problem
        message = f"{problem.place}: {problem.message}"
        return replace(problem, place=self.place(problem.key), message=message, key="")


def as_written(value: object) -> str:
    """A value as it is written in a recipe."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return f"[{', '.join(map(as_written, value))}]" if isinstance(value, tuple) else str(value)
