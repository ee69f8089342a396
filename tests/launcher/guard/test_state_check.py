"""Replicas that differ are named, and nothing that is not finite passes."""

import pytest
import torch

from launcher.ending import NonFiniteError, ReplicasDifferError
from launcher.guard.state_check import bit_sum, check_finite, check_replicas, find_odd
from launcher.recipe.schema import Recipe
from launcher.world import World, world_on
from tests.launcher.parallel.engines import DDP, FSDP2, HSDP, ZERO, make_batches, make_engine, recipe_for
from tests.ranks import run_ranks


@pytest.mark.parametrize(
    ("digests", "odd"),
    [
        ([(0, "a"), (0, "a"), (0, "b")], [2]),
        ([(0, "a"), (0, "b")], [0, 1]),
        ([(0, "a"), (1, "b"), (0, "a"), (1, "c")], [1, 3]),
        ([(0, "a"), (1, "b"), (0, "a"), (1, "b")], []),
        ([(0, "b"), (0, "a"), (0, "a"), (0, "a")], [0]),
    ],
)
def test_the_odd_ranks_are_found(digests: list[tuple[int, str]], odd: list[int]) -> None:
    assert find_odd(digests) == odd


def test_one_flipped_bit_changes_the_sum() -> None:
    tensor = torch.arange(100.0)
    before = bit_sum(tensor)
    tensor.view(torch.int32)[41] ^= 1
    assert bit_sum(tensor) != before
    assert bit_sum(torch.zeros(3)) != bit_sum(torch.tensor([0.0, -0.0, 0.0]))


def differ(world: World, recipe: Recipe, flip: bool) -> str:
    """What the check says on this rank after a step, and perhaps one flipped bit on the last rank."""
    engine, plan = make_engine(recipe, world)
    engine.train_step(make_batches(recipe, plan, world).at(0), 1.0)
    pieces = engine.replicas()
    if flip and world.rank == world.size - 1:
        list(pieces.values())[2].detach().view(-1).view(torch.int32)[0] ^= 1
    try:
        check_replicas(engine, world)
    except ReplicasDifferError as error:
        return str(error)
    return "" if pieces else "nothing is replicated"


@pytest.mark.parametrize(
    ("engine", "ranks", "odd"),
    [
        pytest.param(DDP, 2, (0, 1), id="ddp"),
        pytest.param(HSDP, 4, (1, 3), id="hsdp", marks=pytest.mark.slow),
        pytest.param(ZERO[0], 3, (2,), id="zero0"),
    ],
)
def test_replicas_that_differ_are_named_on_every_rank(
    engine: tuple[str, ...], ranks: int, odd: tuple[int, ...]
) -> None:
    recipe = recipe_for(ranks, *engine, f"train.global_batch_size={4 * ranks}")
    assert set(run_ranks(ranks, differ, recipe, False)) == {""}
    (text,) = set(run_ranks(ranks, differ, recipe, True))
    assert [f"rank {rank} on" in text for rank in range(ranks)] == [rank in odd for rank in range(ranks)]
    assert "differ in 1 tensors" in text


def test_what_is_sharded_has_no_replicas() -> None:
    assert set(run_ranks(2, differ, recipe_for(2, *FSDP2), False)) == {"nothing is replicated"}


def test_a_value_that_is_not_finite_is_named() -> None:
    alone = world_on("cpu")
    state = {"model/a": torch.ones(2), "optim/a/step": torch.tensor(3)}
    check_finite(state, alone)
    with pytest.raises(NonFiniteError, match="optim/a/exp_avg_sq would be saved"):
        check_finite(state | {"optim/a/exp_avg_sq": torch.tensor([1.0, float("inf")])}, alone)
