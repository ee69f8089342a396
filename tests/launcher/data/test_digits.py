"""The digits are signals of 64 steps, split alike for everyone."""

import sys

import numpy as np
import pytest
import torch

from launcher.data.config import DigitsSource
from launcher.data.digits import Digits, split_digits
from launcher.errors import UserError


@pytest.fixture(scope="module")
def split() -> tuple[Digits, Digits]:
    pytest.importorskip("sklearn")
    return split_digits(DigitsSource(type="digits"))


def test_every_image_is_on_one_side(split: tuple[Digits, Digits]) -> None:
    train, validation = split
    assert train.num_samples + validation.num_samples == 1797
    rows = [row.tobytes() for part in split for row in part.signals]
    assert len(set(rows)) == 1797  # and no image is in the set twice


def test_each_digit_is_split_alike(split: tuple[Digits, Digits]) -> None:
    train, validation = (np.bincount(part.labels, minlength=10) for part in split)
    # A count is rounded to the next whole image.
    assert (np.abs(validation - 0.2 * (train + validation)) <= 0.5).all()


def test_signals_are_in_range_and_labels_fit(split: tuple[Digits, Digits]) -> None:
    batch = split[0].batch(np.array([5, 0, 5]))
    assert batch.x.shape == (3, 64, 1)
    assert batch.x.dtype == torch.float32
    assert batch.y.shape == (3,)
    assert batch.y.dtype == torch.int64
    assert batch.lengths is None
    assert torch.equal(batch.x[0], batch.x[2])
    assert split[0].signals.min() == -1
    assert split[0].signals.max() == 1


def test_a_batch_owns_its_memory(split: tuple[Digits, Digits]) -> None:
    batch = split[1].batch(np.arange(4))
    batch.y[:] = -100
    assert (split[1].labels[:4] >= 0).all()


def test_the_split_is_the_same_each_time(split: tuple[Digits, Digits]) -> None:
    again = split_digits(DigitsSource(type="digits"))
    assert np.array_equal(again[1].signals, split[1].signals)


def test_the_most_frequent_digit_is_the_baseline(split: tuple[Digits, Digits]) -> None:
    indices = np.arange(split[1].num_samples)
    share = np.bincount(split[1].labels).max() / split[1].num_samples
    assert split[1].baselines(indices) == {"most frequent digit": share}


def test_a_missing_scikit_learn_is_a_user_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(UserError, match=r"not installed\n.*mulaunch\[digits\]"):
        split_digits(DigitsSource(type="digits"))
