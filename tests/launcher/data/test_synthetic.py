"""Copying and recall can be solved by their rule, and by nothing else."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from launcher.data.config import CopyingSource, RecallSource
from launcher.data.dataset import Batch, Dataset
from launcher.data.synthetic import Copying, Recall
from models.loss import IGNORED


def copying(validation: bool = False, seq_len: int = 30, **changes: int) -> Copying:
    source = CopyingSource.model_validate({"type": "copying", **changes})
    return Copying(source, seq_len=seq_len, validation=validation)


def recall(validation: bool = False, seq_len: int = 40, **changes: int) -> Recall:
    source = RecallSource.model_validate({"type": "associative-recall", **changes})
    return Recall(source, seq_len=seq_len, validation=validation)


def first(samples: Dataset, count: int) -> Batch:
    return samples.batch(np.arange(count))


@pytest.mark.parametrize("selective", [False, True])
def test_copying_asks_for_the_symbols_in_their_order(selective: bool) -> None:
    batch = first(copying(selective=selective), 100)
    for x, y in zip(batch.x.tolist(), batch.y.tolist(), strict=True):
        symbols = [token for token in x if token > 1]
        assert y == [IGNORED] * 20 + symbols
        assert x[20:] == [1] * 10
        assert set(symbols) <= set(range(2, 10))


def test_plain_symbols_come_first_and_selective_ones_anywhere() -> None:
    assert (first(copying(), 100).x[:, :10] > 1).all()
    scattered = first(copying(selective=True), 2000).x[:, :20] > 1
    assert (scattered.sum(1) == 10).all()
    # Each place has a symbol with chance 1/2: five standard errors are 5 * 0.5 / sqrt(2000).
    assert (scattered.float().mean(0) - 0.5).abs().max() < 5 * 0.5 / 2000**0.5


def test_symbols_are_equally_likely() -> None:
    symbols = first(copying(), 2000).x[:, :10].flatten()
    share = torch.bincount(symbols - 2, minlength=8) / len(symbols)
    # Five standard errors of a share of 1/8 among 20 000.
    assert (share - 1 / 8).abs().max() < 5 * (1 / 8 * 7 / 8 / 20_000) ** 0.5


def test_recall_asks_for_values_of_keys_that_were_given() -> None:
    batch = first(recall(num_pairs=6, num_queries=4, num_keys=9, num_values=5), 200)
    for x, y in zip(batch.x.tolist(), batch.y.tolist(), strict=True):
        pairs = dict(zip(x[0:12:2], x[1:12:2], strict=True))
        assert len(pairs) == 6
        assert set(pairs) <= set(range(1, 10))
        assert set(pairs.values()) <= set(range(10, 15))
        assert x[12:36] == [0] * 24
        assert len(set(x[36:])) == 4
        assert y == [IGNORED] * 36 + [pairs[key] for key in x[36:]]


def test_every_pair_is_asked_for_equally_often() -> None:
    batch = first(recall(num_pairs=4, num_queries=1, num_keys=4), 2000)
    asked = (batch.x[:, 0:8:2] == batch.x[:, -1:]).float().mean(0)
    assert (asked - 1 / 4).abs().max() < 5 * (1 / 4 * 3 / 4 / 2000) ** 0.5


def test_recall_without_blanks_is_only_pairs_and_queries() -> None:
    batch = first(recall(seq_len=5, num_pairs=2, num_queries=1), 10)
    assert (batch.x > 0).all()


@pytest.mark.parametrize("make", [copying, recall])
def test_a_sample_is_a_function_of_its_number(make: Callable[..., Dataset]) -> None:
    together = first(make(), 20)
    far = np.array([2**39, 7])
    assert torch.equal(make().batch(far).x[1], together.x[7])
    assert torch.equal(make().batch(far[:1]).y[0], make().batch(far).y[0])


@pytest.mark.parametrize("make", [copying, recall])
def test_seeds_and_splits_share_no_sample(make: Callable[..., Dataset]) -> None:
    streams = [make(), make(seed=1), make(validation=True), make(seed=1, validation=True)]
    rows = [tuple(row) for stream in streams for row in first(stream, 500).x.tolist()]
    # At least 8**10 sequences: some two of 2000 are equal with chance 2000**2 / 2 / 8**10 = 0.002.
    assert len(set(rows)) == 2000


def test_guessing_reaches_the_baselines() -> None:
    samples = recall(num_pairs=4, num_queries=1, num_values=3)
    batch = first(samples, 4000)
    baselines = samples.baselines(np.arange(4000))
    hit = (batch.x[:, 1] == batch.y[:, -1]).float().mean()  # the first value, always
    assert abs(float(hit) - baselines["any value seen"]) < 5 * 0.5 / 4000**0.5
    assert baselines["guess"] == 1 / 3
    assert copying().baselines(np.arange(3)) == {"guess": 1 / 8}
