"""The harness that the multi-rank tests stand on."""

import os
import time

import pytest
import torch
import torch.distributed as dist

from launcher.world import World
from tests.ranks import run_ranks


def _sum_of_ranks(world: World, offset: float) -> tuple[int, float, int]:
    value = torch.tensor(world.rank + offset)
    dist.all_reduce(value)
    return world.rank, float(value), torch.get_num_threads()


def test_ranks_talk_and_answer_in_rank_order() -> None:
    assert run_ranks(3, _sum_of_ranks, 0.5) == [(rank, 4.5, 1) for rank in range(3)]


def test_ranks_run_after_the_parent_used_autograd() -> None:
    weight = torch.ones(64, 64, requires_grad=True)
    (weight @ weight).sum().backward()

    def gradient(world: World) -> float:
        fresh = torch.ones(64, 64, requires_grad=True)
        (fresh @ weight).sum().backward()
        assert fresh.grad is not None
        return float(fresh.grad.sum())

    assert run_ranks(2, gradient) == [64.0**3] * 2


def _fail_on_one(world: World) -> None:
    if world.rank == 1:
        raise ValueError("the one that failed")
    dist.barrier()


def test_a_failure_in_one_rank_shows_its_traceback() -> None:
    with pytest.raises(AssertionError, match=r"(?s)rank 1: Traceback.*the one that failed"):
        run_ranks(2, _fail_on_one)


def test_a_rank_that_dies_is_named() -> None:
    with pytest.raises(AssertionError, match="rank 0: the process ended with exit code 3 and no message"):
        run_ranks(2, lambda world: os._exit(3) if world.rank == 0 else time.sleep(30))


def test_a_hang_ends_at_the_time_limit() -> None:
    with pytest.raises(AssertionError, match=r"ranks \[0\] of 1 had no result within 1 s"):
        run_ranks(1, lambda world: time.sleep(3600), timeout_s=1.0)
