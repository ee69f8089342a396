"""`cluster.nproc_per_node: auto`: as many processes as a machine has GPUs, or two on its CPUs. Torch-free."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from launcher.errors import Problem
from launcher.recipe.tree import Node, find, put

AUTO = "auto"
_PATH = ("cluster", "nproc_per_node")
_MOST_ON_CPUS = 2
"""Enough to see ranks at work; the rest of the cores are their threads."""


def resolve_processes(
    tree: Node, gpus: Callable[[], int], cpus: Callable[[], int]
) -> tuple[Node, list[Problem]]:
    """The tree with a number in place of `auto`, and problems found.

    The largest that the machine has room for and the batch divides over: what is frozen is that number.
    """
    node = find(tree, _PATH)
    if node is None or node.value != AUTO:
        return tree, []
    given = _value(tree, "cluster", "gpus_per_node")
    if given is None and _value(tree, "cluster", "type") == "slurm":
        message = "auto is the number of cluster.gpus_per_node, which is not given"
        found = [Problem(node.place, message, "give it, or the number of processes")]
        return put(tree, _PATH, replace(node, value=1)), found
    room = given or gpus() or min(cpus(), _MOST_ON_CPUS)
    nodes, batch = _value(tree, "cluster", "nodes") or 1, _value(tree, "train", "global_batch_size")
    micro = _value(tree, "train", "micro_batch_size") or 1
    fits = [count for count in range(1, room + 1) if batch is None or _divides(batch, count * nodes, micro)]
    return put(tree, _PATH, replace(node, value=max(fits, default=1), text=AUTO)), []


def _divides(batch: int, ranks: int, micro: int) -> bool:
    share, rest = divmod(batch, ranks)
    return rest == 0 and share > 0 and share % min(micro, share) == 0


def _value(tree: Node, *path: str) -> Any:
    """What the recipe gives there, if it can be right; validation says more of what is not."""
    node = find(tree, path)
    value = None if node is None else node.value
    if path[-1] == "type":
        return value
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 1 else None
