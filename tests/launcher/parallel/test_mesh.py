"""How a model is wrapped for its ranks."""

import warnings

from torch import nn

from launcher.parallel.config import ParallelConfig
from launcher.parallel.mesh import replicate_model
from launcher.world import World
from tests.ranks import run_ranks


def replicate_rank(world: World) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = replicate_model(nn.Linear(2, 2), ParallelConfig(strategy="ddp"), world)
    return isinstance(model, nn.parallel.DistributedDataParallel)


def test_replicating_a_model_warns_of_nothing() -> None:
    assert run_ranks(2, replicate_rank) == [True, True]
