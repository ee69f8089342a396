"""Random numbers of a step depend on seed, data step and rank only; what ranks tell each other is data."""

import itertools
import pickle

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from launcher.checkpoint.catalog import Rejected, Saved
from launcher.errors import Problem
from launcher.world import World, seed_step
from tests.ranks import run_ranks


def drawn(*key: int) -> int:
    seed_step(*key)
    return int(torch.randint(1 << 62, ()))


def test_a_step_of_a_rank_draws_the_same_numbers_again_and_all_others_draw_others() -> None:
    keys = list(itertools.product((0, 7), (0, 1, 10), (0, 1, 2)))
    first = [drawn(*key) for key in keys]
    assert [drawn(*key) for key in keys] == first
    assert len(set(first)) == len(keys)


FOUND = TypeAdapter[tuple[Saved | None, list[Rejected], Problem | None]](
    tuple[Saved | None, list[Rejected], Problem | None]
)
TOLD = (None, [Rejected("a", "\udce9 \n is not text", damaged=True)], Problem("x", "y", key="train.steps"))


def tell(world: World) -> tuple[object, object]:
    mine = TOLD if world.is_main else (None, [], None)
    names = ["name"] * (3 * world.rank)
    return world.from_main(mine, FOUND), world.gather(names, TypeAdapter(list[str]))


def test_ranks_tell_each_other_what_they_mean() -> None:
    for found, names in run_ranks(3, tell):
        assert found == TOLD
        assert names == [[], ["name"] * 3, ["name"] * 6]


def lie(world: World) -> str:
    if world.is_main:  # a peer that sends a pickle, as torch's own collectives of objects would run
        text = torch.frombuffer(bytearray(pickle.dumps("told")), dtype=torch.uint8)
        torch.distributed.broadcast(torch.tensor([len(text)]), src=0)
        torch.distributed.broadcast(text, src=0)
        torch.distributed.broadcast(torch.tensor([1 << 60]), src=0)
        return ""
    with pytest.raises((ValueError, ValidationError)):
        world.from_main("", TypeAdapter(str))
    with pytest.raises(RuntimeError) as caught:
        world.from_main("", TypeAdapter(str))
    return str(caught.value)


def test_what_a_peer_sends_is_not_unpickled_and_its_size_is_bounded() -> None:
    assert "announces a message of 1152921504606846976 bytes" in run_ranks(2, lie)[1]
