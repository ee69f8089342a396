"""`cluster.nproc_per_node: auto`: as many processes as a machine has GPUs, or two on its CPUs. Torch-free."""

from collections.abc import Callable
from dataclasses import replace

from launcher.errors import Problem
from launcher.plan.batch import divides
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
    kind, given = find(tree, ("cluster", "type")), _count(tree, "cluster", "gpus_per_node")
    if given is None and kind is not None and kind.value == "slurm":
        message = "auto is the number of cluster.gpus_per_node, which is not given"
        found = [Problem(node.place, message, "give it, or the number of processes")]
        return put(tree, _PATH, replace(node, value=1)), found
    room = given or gpus() or min(cpus(), _MOST_ON_CPUS)
    nodes, batch = _count(tree, "cluster", "nodes") or 1, _count(tree, "train", "global_batch_size")
    micro = _count(tree, "train", "micro_batch_size") or 1
    fits = [ranks for ranks in range(1, room + 1) if batch is None or divides(batch, micro, ranks * nodes)]
    return put(tree, _PATH, replace(node, value=max(fits, default=1), text=AUTO)), []


def _count(tree: Node, *path: str) -> int | None:
    """The number that the recipe gives there, if it can be right; validation says more of what is not."""
    node = find(tree, path)
    value = None if node is None else node.value
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 1 else None
