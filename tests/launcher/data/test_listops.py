"""Expressions follow Long Range Arena's rules, and their labels are their values."""

import random

import numpy as np
import pytest
import torch

from launcher.data.config import DataConfig, ListOpsSource
from launcher.data.listops import SYMBOLS, ListOps
from launcher.data.splits import open_splits
from launcher.errors import UserError


def source(**changes: int) -> ListOpsSource:
    return ListOpsSource.model_validate({"type": "listops", "min_length": 10, **changes})


def listops(seq_len: int = 200, validation: bool = False, **changes: int) -> ListOps:
    return ListOps(source(**changes), seq_len=seq_len, validation=validation)


def words(samples: ListOps, index: int) -> list[str]:
    batch = samples.batch(np.array([index]))
    assert batch.lengths is not None
    return [SYMBOLS[token] for token in batch.x[0, : int(batch.lengths[0])]]


def evaluate(text: list[str]) -> tuple[int, int, int]:
    """The slow twin: (value, depth, most arguments) of an expression, which it takes off the list."""
    word = text.pop(0)
    if word.isdigit():
        return int(word), 0, 0
    parts = []
    while text[0] != "]":
        parts.append(evaluate(text))
    text.pop(0)
    values = [value for value, _, _ in parts]
    value = {
        "[MIN": min(values),
        "[MAX": max(values),
        "[MED": int(np.median(values)),
        "[SM": sum(values) % 10,
    }[word]
    most_args = max(len(parts), *(args for _, _, args in parts))
    return value, 1 + max(depth for _, depth, _ in parts), most_args


def test_labels_are_values_and_expressions_keep_the_rules() -> None:
    samples = listops(max_depth=5, max_args=4)
    batch = samples.batch(np.arange(300))
    depths, args = [], []
    for index in range(300):
        text = words(samples, index)
        assert 10 <= len(text) <= 200
        value, depth, most_args = evaluate(text)
        assert not text
        assert value == int(batch.y[index])
        depths.append(depth)
        args.append(most_args)
    # A root at depth 1 and leaves at depth 5 at most: 4 operators on end. 300 expressions reach both limits.
    assert max(depths) == 4
    assert max(args) == 4


def test_sequences_are_padded_at_the_end() -> None:
    batch = listops().batch(np.arange(50))
    assert batch.lengths is not None
    inside = torch.arange(200) < batch.lengths[:, None]
    assert torch.equal(batch.x != 0, inside)
    assert batch.x.dtype == batch.y.dtype == batch.lengths.dtype == torch.int64


def test_a_sample_is_a_function_of_its_number() -> None:
    together = listops().batch(np.arange(20))
    for index in (19, 0, 7):
        alone = listops().batch(np.array([index]))
        assert torch.equal(alone.x[0], together.x[index])
        assert alone.y[0] == together.y[index]


def test_seeds_and_splits_share_no_sample() -> None:
    streams = [listops(), listops(seed=1), listops(validation=True), listops(seed=1, validation=True)]
    texts = [{tuple(words(samples, i)) for i in range(200)} for samples in streams]
    # Short expressions meet by chance: of those above 20 tokens, less than one pair in 10**9 is equal.
    long = [{text for text in stream if len(text) > 20} for stream in texts]
    assert sum(len(stream) for stream in long) == len(set().union(*long)) > 400


def _reference_length(stream: random.Random, depth: int) -> int:
    """Length of an expression by the published generator's rules, written down once more."""
    if depth >= 10 or stream.random() > 0.25:
        return 1
    return 2 + sum(_reference_length(stream, depth + 1) for _ in range(stream.randint(2, 10)))


def test_lengths_are_distributed_as_in_long_range_arena() -> None:
    """Two samples' distributions differ by more than c * sqrt(2 / n) with chance 2 exp(-2 c**2), the
    two-sided Kolmogorov-Smirnov bound: 7e-4 at c = 2. Both streams have fixed seeds."""
    n = 400
    stream = random.Random(1)
    reference: list[int] = []
    while len(reference) < n:
        length = _reference_length(stream, 1)
        if 500 < length < 2000:
            reference.append(length)
    lengths = (
        ListOps(ListOpsSource(type="listops"), seq_len=1999, validation=False).batch(np.arange(n)).lengths
    )
    assert lengths is not None
    grid = np.arange(500, 2001)
    ours = np.searchsorted(np.sort(lengths.numpy()), grid, side="right") / n
    theirs = np.searchsorted(np.sort(reference), grid, side="right") / n
    assert np.abs(ours - theirs).max() < 2 * (2 / n) ** 0.5


def test_root_operator_baseline_is_the_known_one() -> None:
    """37.1 % on 2000 of Long Range Arena's samples, majority 16.9 %; here on 500, where chance moves both by
    sqrt(p (1 - p) / 500) = 0.022 and 0.017, and choosing the best of ten on the samples raises them a little:
    three standard deviations either way."""
    samples = ListOps(ListOpsSource(type="listops"), seq_len=1999, validation=True)
    baselines = samples.baselines(np.arange(500))
    assert abs(baselines["root operator alone"] - 0.371) < 0.066
    assert abs(baselines["most frequent value"] - 0.169) < 0.051


def test_baselines_of_nothing_are_zero() -> None:
    assert set(listops().baselines(np.arange(0)).values()) == {0.0}


def test_expressions_never_change_between_versions() -> None:
    assert " ".join(words(listops(min_length=4, seq_len=12), 0)) == "[SM 1 [MIN 9 0 0 ] 7 1 ]"


def test_sizes_are_the_recipes() -> None:
    config = DataConfig(source=source(train_samples=7, validation_samples=3), seq_len=50)
    splits = open_splits(config, 16)
    assert (splits.train.num_samples, splits.validation.num_samples) == (7, 3)


def test_lengths_that_never_come_are_a_user_error() -> None:
    with pytest.raises(UserError, match="none of 20000 expressions had 90 to 100 tokens"):
        open_splits(DataConfig(source=source(min_length=90, max_depth=2), seq_len=100), 16)
