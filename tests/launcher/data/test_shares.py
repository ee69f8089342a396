"""Parts of a mixture come in exact shares at every sample, and any sample's part is found at once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.data.shares import LONGEST, Shares

WEIGHTS = st.lists(st.integers(1, 60), min_size=2, max_size=7)


@settings(max_examples=60, deadline=None)
@given(WEIGHTS)
def test_after_every_sample_each_part_has_had_its_share(weights: list[int]) -> None:
    shares = Shares([float(weight) for weight in weights])
    parts, _ = shares.of(np.arange(2 * shares.length + 7))
    had = (parts[:, None] == np.arange(len(weights))).cumsum(axis=0)
    exact = np.arange(1, len(parts) + 1)[:, None] * np.array(weights) / sum(weights)
    bound = 1 - 1 / (2 * len(weights) - 2) if len(weights) > 1 else 0
    assert np.abs(had - exact).max() <= bound + 1e-9


@settings(max_examples=60, deadline=None)
@given(WEIGHTS, st.integers(0, 10**12), st.integers(1, 300))
def test_a_sample_found_at_once_is_the_one_found_by_counting(
    weights: list[int], first: int, count: int
) -> None:
    shares = Shares([float(weight) for weight in weights])
    parts, numbers = shares.of(np.arange(first, first + count))
    before = shares.up_to(first)
    for part, number in zip(parts, numbers, strict=True):
        assert number == before[part]
        before[part] += 1
    assert before.tolist() == shares.up_to(first + count).tolist()


def test_three_parts_of_the_issue_are_within_three_quarters_of_a_sample() -> None:
    shares = Shares([0.7, 0.2, 0.1])
    assert shares.counts == [7, 2, 1]
    for step in range(1000):
        had = shares.up_to(step * 13)
        assert np.abs(had - step * 13 * np.array([0.7, 0.2, 0.1])).max() <= 0.75


def test_weights_without_a_short_pattern_are_rounded_and_none_is_lost() -> None:
    shares = Shares([0.123456789, 0.5, 1e-9])
    assert shares.length == LONGEST
    exact = np.array([0.123456789, 0.5, 1e-9])
    assert np.abs(np.array(shares.counts) / LONGEST - exact / exact.sum()).max() < 2 / LONGEST
    assert min(shares.counts) == 1


@pytest.mark.parametrize("weights", [[], [0.5, 0.0], [1.0, -1.0], [float("nan")], [float("inf"), 1.0]])
def test_weights_that_cannot_be_shares_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="weights are"):
        Shares(weights)
