"""A recipe as a tree of values with the places where they were written. Pure data: no YAML, no schema."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

Key = str | int
"""A mapping's key or a list's index."""

# Plain values would lose where they were written, and messages would have to search the text for a key again.
# So every value is a Node with its place. Nodes are frozen: put() copies only the nodes along its path, and a
# guess at what was meant (see compile.py) leaves the original tree as it was.


@dataclass(frozen=True, slots=True)
class Node:
    """One value and its places. A place is "file:line:column", an override or a flag."""

    value: "dict[str, Node] | list[Node] | str | int | float | bool | None"
    place: str
    key_place: str
    """Where its key is written; the same as `place` in a list and at the root."""
    text: str = ""
    """A plain scalar as it was written; empty if quoted."""


def plain(node: Node) -> Any:
    """The value without its places."""
    if isinstance(node.value, dict):
        return {key: plain(child) for key, child in node.value.items()}
    if isinstance(node.value, list):
        return [plain(child) for child in node.value]
    return node.value


def child(node: Node, key: Key) -> Node | None:
    """The node under a key or index, or None."""
    if isinstance(node.value, dict) and isinstance(key, str):
        return node.value.get(key)
    if isinstance(node.value, list) and isinstance(key, int) and 0 <= key < len(node.value):
        return node.value[key]
    return None


def find(node: Node, path: Iterable[Key]) -> Node | None:
    """The node at a path, or None if nothing is written there."""
    found: Node | None = node
    for key in path:
        found = child(found, key) if found is not None else None
    return found


def nearest(node: Node, path: Iterable[Key]) -> Node:
    """The node at a path, or the innermost section around it that is written."""
    for key in path:
        inner = child(node, key)
        if inner is None:
            break
        node = inner
    return node


def put(node: Node, path: tuple[Key, ...], new: Node) -> Node:
    """A tree with `new` at a path. Missing sections are created; other nodes are shared, not copied."""
    if not path:
        return new
    head, rest = path[0], path[1:]
    inner = child(node, head) or Node({}, new.place, new.key_place)
    if isinstance(node.value, list) and isinstance(head, int):
        items = list(node.value)
        items[head] = put(inner, rest, new)
        return replace(node, value=items)
    members = {} if node.value is None else node.value
    assert isinstance(members, dict), f"{path} leads into {node.value!r}"
    assert isinstance(head, str), f"{head!r} is not a key"
    return replace(node, value={**members, head: put(inner, rest, new)})


def without(node: Node, path: tuple[Key, ...]) -> Node:
    """A tree without the key at a path."""
    head, rest = path[0], path[1:]
    assert isinstance(node.value, dict), f"{path} leads into {node.value!r}"
    if not rest:
        return replace(node, value={key: kept for key, kept in node.value.items() if key != head})
    assert isinstance(head, str), f"{head!r} is not a key"
    return replace(node, value={**node.value, head: without(node.value[head], rest)})


def dotted(path: Iterable[Key]) -> str:
    """A path as text: optim.betas.1."""
    return ".".join(str(key) for key in path)


def split_key(key: str) -> tuple[Key, ...]:
    """The path of a dotted key; the inverse of `dotted`."""
    return tuple(int(part) if part.isdecimal() else part for part in key.split("."))
