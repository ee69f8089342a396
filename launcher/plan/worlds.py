"""How many nodes a run may have: those over which a step's samples divide. Torch-free."""

from collections.abc import Sequence

from launcher.plan.batch import divides
from launcher.recipe.schema import Recipe


def node_counts(recipe: Recipe) -> Sequence[int]:
    """From cluster.min_nodes to cluster.nodes, ascending; only the latter where nothing fits."""
    cluster, train = recipe.cluster, recipe.train
    if cluster.min_nodes is None:
        return [cluster.nodes]
    # 8 samples, 1 to 5 nodes of 2 ranks: 1, 2 and 4. With 3 nodes one stands by, with 5 again one.
    most = min(cluster.nodes, train.global_batch_size // cluster.nproc_per_node)
    shard = recipe.parallel.shard_size or 1
    fitting = []
    for nodes in range(cluster.min_nodes, most + 1):
        ranks = nodes * cluster.nproc_per_node
        if divides(train.global_batch_size, train.micro_batch_size, ranks) and ranks % shard == 0:
            fitting.append(nodes)
    return fitting or [cluster.nodes]


def planned_ranks(recipe: Recipe) -> int:
    """Processes of the largest world that the run may have."""
    return node_counts(recipe)[-1] * recipe.cluster.nproc_per_node


def most_that_fit(counts: Sequence[int], nodes: int) -> int:
    """Of so many nodes, those that train; the others stand by. 0: there are too few."""
    return max((count for count in counts if count <= nodes), default=0)
