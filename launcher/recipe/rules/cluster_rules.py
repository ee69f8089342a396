"""Rules of the cluster section."""

from collections.abc import Iterator

from launcher.errors import Problem
from launcher.recipe.loaded import LoadedRecipe
from launcher.recipe.rules.refuse import Rule, below, only_for, refuse


def local_is_one_node(loaded: LoadedRecipe) -> Iterator[Problem]:
    """`cluster.type: local` is this machine; nodes started by hand need a `cluster.rendezvous`."""
    cluster = loaded.recipe.cluster
    if cluster.type == "local" and cluster.nodes > 1 and cluster.rendezvous is None:
        message = "<cluster.nodes>, but <cluster.type> is this machine only"
        remedy = "use cluster.type=slurm or auto, one node, or cluster.rendezvous=HOST:PORT for nodes by hand"
        yield refuse(loaded, "cluster.nodes", message, remedy)


def fewest_nodes_are_at_most_all(loaded: LoadedRecipe) -> Iterator[Problem]:
    """`cluster.min_nodes` is at most `cluster.nodes`."""
    if loaded.recipe.cluster.min_nodes is not None:
        remedy = "write --nodes MIN:MAX, such as --nodes 2:4"
        yield from below(loaded, "cluster.min_nodes", "cluster.nodes", remedy, or_equal=True)


def nodes_by_hand_are_not_slurm(loaded: LoadedRecipe) -> Iterator[Problem]:
    """`cluster.min_nodes` and `cluster.rendezvous` are for nodes started by hand: Slurm starts jobs again."""
    for key in ("cluster.min_nodes", "cluster.rendezvous"):
        remedy = "remove it: a job that loses a node is queued again"
        yield from only_for(loaded, key, "cluster.type", ["local", "auto"], remedy)


def one_process_per_gpu(loaded: LoadedRecipe) -> Iterator[Problem]:
    """A node has at most as many processes as GPUs: NCCL refuses two ranks on one device."""
    key, gpus = "cluster.nproc_per_node", "cluster.gpus_per_node"
    return below(loaded, key, gpus, "use one process per GPU", or_equal=True)


CLUSTER_RULES = (
    Rule("local-is-one-node", local_is_one_node),
    Rule("min-nodes-at-most-nodes", fewest_nodes_are_at_most_all),
    Rule("by-hand-is-not-slurm", nodes_by_hand_are_not_slurm),
    Rule("one-process-per-gpu", one_process_per_gpu),
)
