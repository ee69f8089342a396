"""Random numbers of a step: a pure function of seed, data step and rank."""

import itertools

import torch

from launcher.world import seed_step


def drawn(*key: int) -> int:
    seed_step(*key)
    return int(torch.randint(1 << 62, ()))


def test_a_step_of_a_rank_draws_the_same_numbers_again_and_all_others_draw_others() -> None:
    keys = list(itertools.product((0, 7), (0, 1, 10), (0, 1, 2)))
    first = [drawn(*key) for key in keys]
    assert [drawn(*key) for key in keys] == first
    assert len(set(first)) == len(keys)
