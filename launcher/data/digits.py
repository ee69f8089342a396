"""Handwritten digits as signals. The only module that imports scikit-learn, which ships them."""

import hashlib
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray

from launcher.data.config import DataConfig, DigitsSource
from launcher.data.dataset import Batch, Dataset, Reader, Splits
from launcher.data.order import permute, stream_key
from launcher.errors import Problem, UserError

_SPLIT_KEY = stream_key(0xD161)  # one split whatever the seed, so that results compare


@final
class Digits(Dataset):
    """Images read row by row: signals (B, 64, 1) in [-1, 1], labels 0 to 9."""

    def __init__(self, signals: NDArray[np.float32], labels: NDArray[np.int64]) -> None:
        self.signals = signals
        self.labels = labels

    @property
    def num_samples(self) -> int:
        return len(self.labels)

    def batch(self, indices: NDArray[np.int64]) -> Batch:
        return Batch(torch.from_numpy(self.signals[indices]), torch.from_numpy(self.labels[indices]))

    def baselines(self, indices: NDArray[np.int64]) -> dict[str, float]:
        return {
            "most frequent digit": int(np.bincount(self.labels[indices]).max(initial=0))
            / max(1, len(indices))
        }


def split_digits(source: DigitsSource) -> tuple[Digits, Digits]:
    """Training and validation images. Raises UserError where scikit-learn is not installed."""
    try:
        from sklearn.datasets import load_digits  # an extra, and a second to import
    except ImportError:
        message = "digits come with scikit-learn, which is not installed"
        raise UserError(Problem.at("data.source.type", message, "pip install 'mulaunch[digits]'")) from None
    pixels, labels = load_digits(return_X_y=True)
    signals = (pixels / 8 - 1).astype(np.float32)[:, :, None]  # gray values are 0 to 16; (S, 64, 1)
    labels = np.asarray(labels, dtype=np.int64)
    is_validation = np.zeros(len(labels), dtype=bool)
    # Split each digit by itself, so that chance is about equal in both splits. At least one image of each
    # goes to either side, however small or large the fraction.
    for digit in range(10):
        of_digit = np.flatnonzero(labels == digit)
        count = min(len(of_digit) - 1, max(1, round(source.validation_fraction * len(of_digit))))
        is_validation[of_digit[permute(np.arange(count), len(of_digit), _SPLIT_KEY)]] = True
    return (
        Digits(signals[~is_validation], labels[~is_validation]),
        Digits(signals[is_validation], labels[is_validation]),
    )


def open_digits(_config: DataConfig, source: DigitsSource, _reader: Reader) -> Splits:
    """The digits, split."""
    train, validation = split_digits(source)
    digest = hashlib.blake2b(digest_size=16)
    for part in (train, validation):
        digest.update(part.signals.tobytes() + part.labels.tobytes())
    description = f"digits: {train.num_samples} images to train on, {validation.num_samples} to validate on"
    return Splits(train, validation, digest.hexdigest(), description)
