"""The numbers of nodes that a run may have."""

import pytest

from launcher.plan.worlds import most_that_fit, node_counts, planned_ranks
from tests.small_run import small_recipe

BY_HAND = "cluster.rendezvous=n1:29400"


@pytest.mark.parametrize(
    ("overrides", "counts"),
    [
        (("cluster.nodes=1",), [1]),
        (("cluster.nodes=3", "cluster.min_nodes=1", "parallel.strategy=ddp"), [1, 2]),
        (("cluster.nodes=8", "cluster.min_nodes=1", "parallel.strategy=ddp"), [1, 2, 4, 8]),
        (("cluster.nodes=9", "cluster.min_nodes=2", "parallel.strategy=ddp"), [2, 4, 8]),
        (
            ("cluster.nodes=4", "cluster.min_nodes=1", "parallel.strategy=ddp", "cluster.nproc_per_node=2"),
            [1, 2, 4],
        ),
        # 8 samples on 1 rank are not whole forwards of 3
        (
            (
                "cluster.nodes=4",
                "cluster.min_nodes=1",
                "parallel.strategy=ddp",
                "train.micro_batch_size=3",
            ),
            [4],
        ),
        # one copy needs two ranks
        (
            ("cluster.nodes=4", "cluster.min_nodes=1", "parallel.strategy=hsdp", "parallel.shard_size=2"),
            [2, 4],
        ),
    ],
)
def test_worlds_over_which_a_step_divides(overrides: tuple[str, ...], counts: list[int]) -> None:
    recipe = small_recipe(BY_HAND, *overrides)
    assert node_counts(recipe) == counts
    assert planned_ranks(recipe) == counts[-1] * recipe.cluster.nproc_per_node


@pytest.mark.parametrize(("nodes", "most"), [(0, 0), (1, 0), (2, 2), (3, 2), (4, 4), (9, 4)])
def test_nodes_beyond_the_largest_world_stand_by(nodes: int, most: int) -> None:
    assert most_that_fit([2, 4], nodes) == most
