"""A checked recipe that still knows where each of its values was written."""

from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel

from launcher.recipe.overrides import flag_node
from launcher.recipe.schema import Recipe
from launcher.recipe.tree import Key, Node, dotted, find, nearest, put


@dataclass(frozen=True, slots=True)
class SourceText:
    """What the user gave."""

    path: str
    text: str
    overrides: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LoadedRecipe:
    """One recipe, its source, and the place of every value."""

    recipe: Recipe
    source: SourceText
    tree: Node

    def place(self, *path: Key) -> str:
        """The "file:line:column", override or flag that gives a value; its section's place for a default."""
        found = find(self.tree, path)
        return found.place if found is not None else nearest(self.tree, path).key_place

    def cite(self, *path: Key) -> str:
        """A value with where it comes from: `train.steps = 40 (override 'train.steps=40')`."""
        value: Any = self.recipe
        for key in path:
            value = getattr(value, str(key)) if isinstance(value, BaseModel) else value[key]
        found = find(self.tree, path)
        return f"{dotted(path)} = {_as_written(value)} ({found.place if found is not None else 'default'})"

    def on(self, nodes: int | None, nproc_per_node: int | None) -> "LoadedRecipe":
        """The same recipe on another number of nodes or processes, as if given by flags."""
        given = {"nodes": nodes, "nproc_per_node": nproc_per_node}
        sizes = {key: value for key, value in given.items() if value is not None}
        tree = self.tree
        for key, value in sizes.items():
            tree = put(tree, ("cluster", key), flag_node(key, value))
        cluster = self.recipe.cluster.model_copy(update=sizes)
        return replace(self, recipe=self.recipe.model_copy(update={"cluster": cluster}), tree=tree)


def _as_written(value: object) -> str:
    """A value as a recipe has it."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return f"[{', '.join(map(_as_written, value))}]" if isinstance(value, tuple) else str(value)
