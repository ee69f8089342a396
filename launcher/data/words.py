"""Words of a text: the rule by which it is cut, which of them are known by number, and windows of them.

Letters: B batch, L words, W characters of a word, N distinct words.
"""

import re
from collections.abc import Iterable, Sequence
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray

from launcher.data.dataset import Batch, Dataset, Windows

UNKNOWN = b"<unk>"
"""What word 0 stands for: every word that has no number of its own. The rule of `cut` never gives it."""
_END = b"\0"

# By bytes, so that it is the same in every version of Python, whose tables of letters grow.
_WORD = re.compile(rb"[A-Za-z_\x80-\xff][0-9A-Za-z_\x80-\xff]*|[0-9]+|\n|[^ \t\n\r\v\f]")


def cut(text: bytes) -> list[bytes]:
    """Names (of letters, digits, underscores and all that is not ASCII), numbers, line ends, and every other
    sign by itself; blanks only part them."""
    return _WORD.findall(text)


def join(words: Iterable[bytes], before: bytes = b"\n") -> str:
    """Words behind a word as text again: a blank before each, but for line ends and what follows them."""
    parts = []
    for word in words:
        blank = b"" if b"\n" in (before, word) else b" "
        parts.append(blank + (b"<end>" if word == _END else word))
        before = word
    return b"".join(parts).decode(errors="replace")


def spell(words: Sequence[bytes], max_chars: int) -> NDArray[np.int16]:
    """Characters (N, W) of words: bytes + 1, so that 0 is none; a longer word is cut off."""
    padded = b"".join(word[:max_chars].ljust(max_chars) for word in words)
    bytes_NW = np.frombuffer(padded, dtype=np.uint8).reshape(len(words), max_chars)
    lengths_N1 = np.array([len(word) for word in words], dtype=np.int64).reshape(-1, 1)
    return np.where(np.arange(max_chars) < lengths_N1, bytes_NW.astype(np.int16) + 1, np.int16(0))


@final
class Vocabulary:
    """Every word of a corpus. Word 0 is UNKNOWN, word 1 the end of a file; then the others from the most to
    the least frequent one of the training files, equals by their bytes, and behind them those that only
    validation files have. A model knows the first `vocab_size` by number; the others are word 0 to it, though
    a model that reads characters reads those of any word."""

    def __init__(self, words: Sequence[bytes], *, vocab_size: int, max_chars: int | None) -> None:
        self.words = words
        self.vocab_size = vocab_size
        self._max_chars = max_chars
        self._chars_NW = None if max_chars is None else torch.from_numpy(spell(words, max_chars))

    @property
    def num_known(self) -> int:
        """Words that have a number."""
        return min(self.vocab_size, len(self.words))

    @property
    def has_chars(self) -> bool:
        """Whether words are read by their characters."""
        return self._max_chars is not None

    def number(self, places: torch.Tensor) -> torch.Tensor:
        """Numbers of the words at these places: what a model says."""
        return torch.where(places < self.vocab_size, places, 0)

    def show(self, places: torch.Tensor) -> torch.Tensor:
        """What a model reads of the words at these places: numbers, or characters in a new last dimension."""
        return self.number(places) if self._chars_NW is None else self._chars_NW[places].long()

    def read(self, text: bytes) -> torch.Tensor:
        """A text of any words as a model reads it: (L), or (L, W)."""
        words = cut(text)
        if self._max_chars is not None:
            return torch.from_numpy(spell(words, self._max_chars)).long()
        places = {word: place for place, word in enumerate(self.words[: self.num_known])}
        return torch.tensor([places.get(word, 0) for word in words], dtype=torch.int64)


@final
class WordWindows(Dataset):
    """Windows of a stream of word numbers: x as a model reads words, y the numbers one word later."""

    def __init__(self, windows: Windows, vocabulary: Vocabulary) -> None:
        self.windows = windows
        self.vocabulary = vocabulary

    @property
    def num_samples(self) -> int:
        return self.windows.num_samples

    def batch(self, indices: NDArray[np.int64]) -> Batch:
        places = self.windows.batch(indices)
        return Batch(x=self.vocabulary.show(places.x), y=self.vocabulary.number(places.y))

    def baselines(self, indices: NDArray[np.int64]) -> dict[str, float]:
        if not len(indices):
            return {"most frequent word": 0.0}
        targets = self.vocabulary.number(self.windows.batch(indices).y).flatten()
        return {"most frequent word": int(torch.bincount(targets).max()) / len(targets)}


def number_words(
    train: Iterable[bytes], validation: Iterable[bytes]
) -> tuple[list[bytes], NDArray[np.int32], NDArray[np.int32]]:
    """Distinct words of some texts in the order of a Vocabulary, and both streams as places in it."""
    seen = {_END: 0}
    first, second = (
        np.fromiter((seen.setdefault(word, len(seen)) for text in part for word in cut(text)), dtype=np.int32)
        for part in (train, validation)
    )
    words, counts = list(seen), np.bincount(first, minlength=len(seen))
    order = [0, *sorted(range(1, len(words)), key=lambda at: (-counts[at], words[at]))]
    places = np.empty(len(words), dtype=np.int32)
    places[order] = np.arange(1, len(words) + 1)
    return [UNKNOWN, *(words[at] for at in order)], places[first], places[second]
