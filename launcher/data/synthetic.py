"""Sequence tasks made by rule: copying and associative recall. All that is no answer has target IGNORED."""

from typing import final

import numpy as np
import torch
from numpy.typing import NDArray

from launcher.data.config import CopyingSource, RecallSource
from launcher.data.dataset import IGNORED, Batch, Dataset
from launcher.data.order import NO_END, choose, draw, sample_keys

BLANK = 0


@final
class Copying(Dataset):
    """Ids: 0 blank, 1 cue, then the alphabet. The cues are the last num_symbols positions."""

    def __init__(self, source: CopyingSource, *, seq_len: int, validation: bool) -> None:
        self._source = source
        self._seq_len = seq_len
        self._stream = (source.seed, int(validation))

    @property
    def num_samples(self) -> int:
        return NO_END

    def batch(self, indices: NDArray[np.int64]) -> Batch:
        K = self._source.num_symbols
        symbols_BK = 2 + draw(sample_keys(indices, *self._stream, 0), K, self._source.alphabet)
        places_BK = np.broadcast_to(np.arange(K), symbols_BK.shape)
        if self._source.selective:
            keys = sample_keys(indices, *self._stream, 1)
            places_BK = np.sort(choose(keys, K, self._seq_len - K), axis=1)
        x_BL = np.full((len(indices), self._seq_len), BLANK, dtype=np.int64)
        y_BL = np.full_like(x_BL, IGNORED)
        np.put_along_axis(x_BL, places_BK, symbols_BK, axis=1)
        x_BL[:, -K:] = 1
        y_BL[:, -K:] = symbols_BK
        return Batch(torch.from_numpy(x_BL), torch.from_numpy(y_BL))

    def baselines(self, indices: NDArray[np.int64]) -> dict[str, float]:
        return {"guess": 1 / self._source.alphabet}


@final
class Recall(Dataset):
    """Ids: 0 blank, then the keys, then the values. A sequence's keys differ; its queries are among them."""

    def __init__(self, source: RecallSource, *, seq_len: int, validation: bool) -> None:
        self._source = source
        self._seq_len = seq_len
        self._stream = (source.seed, int(validation))

    @property
    def num_samples(self) -> int:
        return NO_END

    def batch(self, indices: NDArray[np.int64]) -> Batch:
        source = self._source
        P, Q = source.num_pairs, source.num_queries
        keys_BP = 1 + choose(sample_keys(indices, *self._stream, 0), P, source.num_keys)
        first_value = 1 + source.num_keys
        values_BP = first_value + draw(sample_keys(indices, *self._stream, 1), P, source.num_values)
        asked_BQ = choose(sample_keys(indices, *self._stream, 2), Q, P)
        x_BL = np.full((len(indices), self._seq_len), BLANK, dtype=np.int64)
        y_BL = np.full_like(x_BL, IGNORED)
        x_BL[:, 0 : 2 * P : 2] = keys_BP
        x_BL[:, 1 : 2 * P : 2] = values_BP
        x_BL[:, -Q:] = np.take_along_axis(keys_BP, asked_BQ, axis=1)
        y_BL[:, -Q:] = np.take_along_axis(values_BP, asked_BQ, axis=1)
        return Batch(torch.from_numpy(x_BL), torch.from_numpy(y_BL))

    def baselines(self, indices: NDArray[np.int64]) -> dict[str, float]:
        share = 1 / self._source.num_pairs  # the right pair by luck, or another that has the same value
        seen = share + (1 - share) / self._source.num_values
        return {"guess": 1 / self._source.num_values, "any value seen": seen}
