"""Rules of the cluster section."""

from collections.abc import Iterator

from launcher.errors import Problem
from launcher.recipe.loaded import LoadedRecipe
from launcher.recipe.rules.refuse import Rule, below, refuse


def local_is_one_node(loaded: LoadedRecipe) -> Iterator[Problem]:
    """`cluster.type: local` is this machine: one node."""
    cluster = loaded.recipe.cluster
    if cluster.type == "local" and cluster.nodes > 1:
        message = "<cluster.nodes>, but <cluster.type> is this machine only"
        yield refuse(loaded, "cluster.nodes", message, "use cluster.type=slurm or auto, or one node")


def one_process_per_gpu(loaded: LoadedRecipe) -> Iterator[Problem]:
    """A node has at most as many processes as GPUs: NCCL refuses two ranks on one device."""
    key, gpus = "cluster.nproc_per_node", "cluster.gpus_per_node"
    return below(loaded, key, gpus, "use one process per GPU", or_equal=True)


CLUSTER_RULES = (
    Rule("local-is-one-node", local_is_one_node),
    Rule("one-process-per-gpu", one_process_per_gpu),
)
