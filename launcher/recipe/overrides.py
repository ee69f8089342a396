"""Overrides, `section.key=value` and `~section.key`: the same types and the same errors as in the file."""

from collections.abc import Sequence
from dataclasses import replace
from types import NoneType

from launcher.errors import Problem, UserError
from launcher.recipe.suggest import close_matches, did_you_mean
from launcher.recipe.tree import Key, Node, child, dotted, find, nearest, put, without
from launcher.yaml_text import parse_argument

Nodes = int | tuple[int, int]
"""Of --nodes: a number, or the fewest and the most."""


def apply_overrides(tree: Node, overrides: Sequence[str]) -> tuple[Node, list[Problem]]:
    """Write each override into the tree, in order; returns the tree and the problems found."""
    # On the tree, before types are known: `optim.lr=3e-4` puts a node with the text 3e-4 at (optim, lr), and
    # what validates the file then validates it too. A later override of the same key wins.
    problems: list[Problem] = []
    for override in overrides:
        try:
            if override.startswith("~"):
                tree = _drop(tree, override)
                continue
            path, node = _read_override(override)
            tree = put(tree, _typed_path(tree, path, override), node)
        except UserError as error:
            problems += error.problems
    return tree, problems


def _drop(tree: Node, override: str) -> Node:
    """The tree without the key that `~section.key` names. Raises UserError where it is not written."""
    path = override[1:].split(".")
    found = find(tree, path)
    if found is None:
        section = nearest(tree, path)
        keys = list(section.value) if isinstance(section.value, dict) else []
        hint = did_you_mean(close_matches(path[-1], keys)) or "only what the recipe gives can be dropped"
        raise UserError(Problem(f"override {override!r}", f"the recipe does not give {dotted(path)}", hint))
    if not isinstance(nearest(tree, path[:-1]).value, dict):
        message = "is an item of a list; give the whole list"
        raise UserError(Problem(f"override {override!r}", message))
    return without(tree, tuple(path))


def apply_flags(tree: Node, nodes: Nodes | None, nproc_per_node: int | None) -> Node:
    """Write the flags given into the cluster section; validation reports if that is not a section."""
    cluster = child(tree, "cluster")
    if cluster is not None and not isinstance(cluster.value, (dict, NoneType)):
        return tree
    values: dict[str, tuple[str, int | None]] = {}
    if nodes is not None:
        fewest, most = nodes if isinstance(nodes, tuple) else (None, nodes)
        values["nodes"] = "--nodes", most
        # A fixed number takes back an earlier range.
        if fewest is not None or (cluster is not None and child(cluster, "min_nodes") is not None):
            values["min_nodes"] = "--nodes", fewest
    if nproc_per_node is not None:
        values["nproc_per_node"] = "--nproc-per-node", nproc_per_node
    for key, (flag, value) in values.items():
        tree = put(tree, ("cluster", key), Node(value, flag, flag, str(value)))
    return tree


def _read_override(override: str) -> tuple[list[str], Node]:
    """Split `a.b=value` and read the value as YAML."""
    # As YAML: `model.pattern=[s4d, ffn]` is a list, and `schedule={type: plateau}` replaces a section.
    place = f"override {override!r}"
    name, equals, text = override.partition("=")
    path = name.strip().split(".")
    if not equals or not all(path):
        raise UserError(Problem(place, "is not section.key=value", "for example optim.lr=3e-4"))
    if not text.strip():
        raise UserError(
            Problem(place, "has no value", f"write {name}=null for none, or {name}='\"\"' for empty text")
        )
    try:
        node, problems = parse_argument(text, place)
    except UserError as error:
        raise UserError(*(replace(problem, place=place) for problem in error.problems)) from None
    if problems:
        raise UserError(*(replace(problem, place=place) for problem in problems))
    return path, _placed(node, place)


def _placed(node: Node, place: str) -> Node:
    """The tree with the override as the place of every node."""
    value = node.value
    if isinstance(value, dict):
        value = {key: _placed(inner, place) for key, inner in value.items()}
    elif isinstance(value, list):
        value = [_placed(item, place) for item in value]
    return Node(value, place, place, node.text)


def _typed_path(tree: Node, path: list[str], override: str) -> tuple[Key, ...]:
    """The path with positions in lists as numbers. Raises UserError if it leads into a plain value."""
    # optim.betas.1=0.95: `betas` is a list in the file, so "1" is a position and not a key. A path into a
    # section that is not written yet stays a path of keys.
    typed: list[Key] = []
    node: Node | None = tree
    for name in path:
        key: Key = name
        if node is not None and isinstance(node.value, list):
            key = int(name) if name.isdecimal() else name
            if child(node, key) is None:
                message = (
                    f"{dotted(typed)} has no item {name}: it is a list of {len(node.value)} ({node.place})"
                )
                raise UserError(
                    Problem(f"override {override!r}", message, "count from 0, or give the whole list")
                )
        elif node is not None and node.value is not None and not isinstance(node.value, dict):
            message = f"{dotted(typed)} is {node.text or repr(node.value)} ({node.place}), which has no keys"
            raise UserError(Problem(f"override {override!r}", message, f"set {dotted(typed)}=... itself"))
        typed.append(key)
        node = child(node, key) if node is not None else None
    return tuple(typed)
