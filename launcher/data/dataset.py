"""What a model reads: numbered samples, and batches of them."""

import abc
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray

from launcher.data.ids import Stored
from launcher.data.order import windows_of_step
from launcher.errors import Problem, UserError
from models.documents import Documents
from models.loss import IGNORED


@final
@dataclass(frozen=True, slots=True)
class Batch:
    """One forward's input and targets."""

    x: torch.Tensor
    """Tokens int64 (B, L), characters of words int64 (B, L, W), or signals float32 (B, L, F); for pairs of
    sequences (B, 2, L, ...)."""
    y: torch.Tensor
    """Targets int64 (B, L), or labels (B,); the loss skips IGNORED."""
    lengths: torch.Tensor | None = None
    """Valid positions of each sequence int64 (B,), for pairs (B, 2); None where all L are valid."""
    begins: bool | None = None
    """For rows that are streams: True where their first windows are read, False where they continue the step
    before. None where rows are not streams."""
    documents: Documents | None = None
    """Which positions may see each other; None where all may that come before."""


class Dataset(abc.ABC):
    """A numbered set of samples; sample i is always the same."""

    @property
    @abc.abstractmethod
    def num_samples(self) -> int:
        """Number of samples."""

    @abc.abstractmethod
    def batch(self, indices: NDArray[np.int64]) -> Batch:
        """The samples with these numbers, stacked."""

    def order(self, data_step: int, global_batch_size: int, seed: int) -> NDArray[np.int64]:
        """Sample of each row of a global batch; data steps count from 0."""
        return windows_of_step(data_step, global_batch_size, self.num_samples, seed)

    @property
    def token_bytes(self) -> NDArray[Any] | None:
        """Bytes of text that each target stands for; None where that is not known."""
        return None

    def text_bytes(self, indices: NDArray[np.int64]) -> int | None:
        """Of the targets of these samples that count; None where that is not known."""
        if self.token_bytes is None or not len(indices):
            return None
        targets = self.batch(indices).y.numpy()
        return int(self.token_bytes[targets[targets != IGNORED]].sum())

    def baselines(self, indices: NDArray[np.int64]) -> dict[str, float]:
        """Accuracies of trivial baselines on these samples, by name, to be shown next to the model's."""
        return {}


@final
@dataclass(frozen=True, slots=True)
class SplitPart:
    """A part of the data that is validated on by itself."""

    name: str
    weight: float
    samples: Dataset


@final
@dataclass(frozen=True, slots=True)
class Splits:
    """The two splits of an open source."""

    train: Dataset
    validation: Dataset
    """Disjoint from train; has no samples where there is no validation."""
    fingerprint: str
    """Hash of the names, sizes and content read, so that a resume on other data is noticed."""
    description: str
    """One line for the log."""
    tokenizer: str | None = None
    """sha256 of the tokenizer's file; None where there is none."""
    parts: tuple[SplitPart, ...] = ()
    """Of a mixture: what is validated on; `validation` is then that of its first part."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """What the model reads."""

    vocab_size: int
    """0 where the model has no vocabulary."""
    max_chars: int | None
    """Characters read of each word; None where the model does not read characters."""


@final
class Tokens:
    """A flat stream of token ids, in memory or where they are stored."""

    def __init__(
        self,
        ids: NDArray[Any] | Stored,
        *,
        vocab_size: int,
        place: str,
        token_bytes: NDArray[Any] | None = None,
    ) -> None:
        self._ids = ids
        self._vocab_size = vocab_size
        self.place = place
        self.token_bytes = token_bytes
        """Bytes of text that each id stands for, where that is known."""

    def __len__(self) -> int:
        return len(self._ids)

    def fetch(self, starts: Iterable[int], count: int) -> None:
        """Bring what is about to be read from these places, all at once, where it is remote."""
        if isinstance(self._ids, Stored):
            self._ids.fetch([slice(start, start + count) for start in starts])

    def read(self, start: int, count: int) -> NDArray[np.int64]:
        """Copy `count` ids from `start` on. Raises UserError for an id outside the vocabulary."""
        if not 0 <= start <= start + count <= len(self):
            raise ValueError(f"tokens {start} to {start + count} asked for; there are {len(self)}")
        ids = self._ids[start : start + count].astype(np.int64)
        # Checked at each read, because a memory-mapped file can be too large to check at the start. No id
        # is negative: token files are unsigned, and word numbers start at 0.
        if count and int(ids.max()) >= self._vocab_size:
            at = int(ids.argmax())
            message = f"token {start + at} is {ids[at]}; model.vocab_size is {self._vocab_size}"
            remedy = (
                f"set model.vocab_size to at least {ids[at] + 1}, if data.source.dtype is what the file was "
                f"written with"
            )
            raise UserError(Problem(self.place, message, remedy, key="model.vocab_size"))
        return ids


@final
class Windows(Dataset):
    """Windows of a token stream: x is tokens[i*L : (i+1)*L], y the same one token later."""

    def __init__(self, tokens: Tokens, seq_len: int) -> None:
        self.tokens = tokens
        self.seq_len = seq_len

    @property
    def num_samples(self) -> int:
        # One token fewer, because the last target is one past the last input: 10 tokens at L = 3 are 3
        # windows, 9 tokens only 2. The last target of a window is the next one's first input.
        return max(0, len(self.tokens) - 1) // self.seq_len

    def batch(self, indices: NDArray[np.int64]) -> Batch:
        L = self.seq_len
        self.tokens.fetch((int(index) * L for index in indices), L + 1)
        rows = [self.tokens.read(int(index) * L, L + 1) for index in indices]
        block = torch.from_numpy(np.stack(rows))  # (B, L + 1)
        return Batch(x=block[:, :-1].contiguous(), y=block[:, 1:].contiguous())

    @property
    def token_bytes(self) -> NDArray[Any] | None:
        return self.tokens.token_bytes
