"""Words of a text: the rule that cuts it, the vocabulary that numbers them, and windows of them.

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
"""Word 0: stands for every word that has no number of its own. `cut` never returns it."""
_END = b"\0"

# Over bytes and not over str, because Python's tables of letters grow from version to version. Every byte of
# a non-ASCII character is 0x80 or above and counts as a letter, so no character is cut in two. A number ends
# at the first letter: "x1" is one word, "0x1f" is "0" and "x1f", "1.5" is "1", ".", "5".
_WORD = re.compile(rb"[A-Za-z_\x80-\xff][0-9A-Za-z_\x80-\xff]*|[0-9]+|\n|[^ \t\n\r\v\f]")


def cut(text: bytes) -> list[bytes]:
    """Names (letters, digits, underscores and everything outside ASCII), numbers, line ends, and every other
    character by itself; blanks only separate them."""
    return _WORD.findall(text)


def join(words: Iterable[bytes], before: bytes = b"\n") -> str:
    """Words as text again: a blank before each, except for line ends and the words that follow them."""
    parts = []
    for word in words:
        blank = b"" if b"\n" in (before, word) else b" "
        parts.append(blank + (b"<end>" if word == _END else word))
        before = word
    return b"".join(parts).decode(errors="replace")


def spell(words: Sequence[bytes], max_chars: int) -> NDArray[np.int16]:
    """Characters (N, W) of words: bytes + 1, so that 0 means none; a longer word is truncated."""
    # The blanks that ljust adds are past the word's length, where the comparison below writes 0.
    padded = b"".join(word[:max_chars].ljust(max_chars) for word in words)
    bytes_NW = np.frombuffer(padded, dtype=np.uint8).reshape(len(words), max_chars)
    lengths_N1 = np.array([len(word) for word in words], dtype=np.int64).reshape(-1, 1)
    return np.where(np.arange(max_chars) < lengths_N1, bytes_NW.astype(np.int16) + 1, np.int16(0))


@final
class Vocabulary:
    """Every word of a corpus.

    Word 0 is UNKNOWN and word 1 the end of a file. The others follow by falling frequency in the training
    files, ties by their bytes; words that only validation files contain come last. A model has a number for
    the first `vocab_size` words; the others are word 0 to it, though a model that reads characters reads
    those of any word.
    """

    def __init__(self, words: Sequence[bytes], *, vocab_size: int, max_chars: int | None) -> None:
        self.words = words
        self.vocab_size = vocab_size
        self._max_chars = max_chars
        self._chars_NW = None if max_chars is None else torch.from_numpy(spell(words, max_chars))

    @property
    def num_known(self) -> int:
        """How many words have a number of their own."""
        return min(self.vocab_size, len(self.words))

    @property
    def has_chars(self) -> bool:
        """Whether words are read by their characters."""
        return self._max_chars is not None

    def number(self, places: torch.Tensor) -> torch.Tensor:
        """Numbers of the words at these places: what a model predicts."""
        return torch.where(places < self.vocab_size, places, 0)

    def show(self, places: torch.Tensor) -> torch.Tensor:
        """What a model reads of the words at these places: numbers, or characters in a new last dimension."""
        return self.number(places) if self._chars_NW is None else self._chars_NW[places].long()

    def read(self, text: bytes) -> torch.Tensor:
        """Any text as a model reads it: (L), or (L, W)."""
        words = cut(text)
        if self._max_chars is not None:
            return torch.from_numpy(spell(words, self._max_chars)).long()
        places = {word: place for place, word in enumerate(self.words[: self.num_known])}
        return torch.tensor([places.get(word, 0) for word in words], dtype=torch.int64)


@final
class WordWindows(Dataset):
    """Windows of a stream of words: x as a model reads words, y their numbers one word later."""

    def __init__(self, windows: Windows, vocabulary: Vocabulary) -> None:
        self.windows = windows
        self.vocabulary = vocabulary

    @property
    def num_samples(self) -> int:
        return self.windows.num_samples

    def batch(self, indices: NDArray[np.int64]) -> Batch:
        # The stream holds places in the whole vocabulary, because a word without a number still has
        # characters. Inputs may use those; targets are always numbers.
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
    """Distinct words of the texts in the order of a Vocabulary, and both streams as places in it."""
    # First pass: words are numbered as they appear, training files first, so that a corpus is read only once.
    seen = {_END: 0}
    first, second = (
        np.fromiter((seen.setdefault(word, len(seen)) for text in part for word in cut(text)), dtype=np.int32)
        for part in (train, validation)
    )
    # Second: renumber by frequency. Only training words are counted: a vocabulary chosen by validation text
    # would leak it. Words of validation files alone have count 0, so they sort last.
    words, counts = list(seen), np.bincount(first, minlength=len(seen))
    order = [0, *sorted(range(1, len(words)), key=lambda at: (-counts[at], words[at]))]
    # places[old number] = place in the Vocabulary: the inverse of `order`, one further because UNKNOWN is 0.
    places = np.empty(len(words), dtype=np.int32)
    places[order] = np.arange(1, len(words) + 1)
    return [UNKNOWN, *(words[at] for at in order)], places[first], places[second]
