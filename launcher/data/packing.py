"""Documents packed into rows, apart from each other: best fit within a horizon of 256 rows, found at once.

The stream is cut into stretches of 256 rows of tokens. What begins in a stretch is packed into 257 rows,
longest first, each into the fullest row that holds it (best fit decreasing; Johnson 1974). So any row of a
trillion tokens follows from the documents of one stretch: nothing is read at the start.
"""

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Protocol, final

import numpy as np
import torch
from numpy.typing import NDArray

from launcher.data.dataset import Batch, Dataset, Tokens
from models.documents import lay_out
from models.loss import IGNORED

HORIZON = 256
"""Rows of tokens that are packed together."""
_KEPT = 32
"""Stretches whose packing is kept."""

Piece = tuple[int, int]
"""Of a document: the place of its first input in the stream, and how many inputs. A target is one later."""


class _Numbers(Protocol):
    def __len__(self) -> int: ...
    def __getitem__(self, span: slice) -> NDArray[Any]: ...


@final
class Ends:
    """Where the documents of a stream end; shard after shard, each with ends of its own."""

    def __init__(self, shards: Sequence[tuple[int, _Numbers]]) -> None:
        """Tokens of each shard, and the position after each document's last token in it."""
        self._shards = [numbers for _, numbers in shards]
        self._begins = np.cumsum([0, *(tokens for tokens, _ in shards)], dtype=np.int64)

    def between(self, first: int, last: int) -> list[tuple[int, int]]:
        """(begin, end) of every document with a token in [first, last)."""
        found = []
        shard = int(np.searchsorted(self._begins, first, side="right")) - 1
        while shard < len(self._shards) and self._begins[shard] < last:
            begin, numbers = int(self._begins[shard]), self._shards[shard]
            at = _count_up_to(numbers, first - begin)
            until = min(len(numbers), _count_up_to(numbers, last - begin - 1) + 1)
            ends = numbers[slice(at, until)].tolist()
            before = int(numbers[slice(at - 1, at)][0]) if at else 0
            found += [(begin + b, begin + e) for b, e in zip([before, *ends], ends, strict=False)]
            shard += 1
        return found


def _count_up_to(numbers: _Numbers, value: int) -> int:
    """How many of the rising numbers are at most this."""
    low, high = 0, len(numbers)
    while low < high:
        middle = (low + high) // 2
        if int(numbers[slice(middle, middle + 1)][0]) <= value:
            low = middle + 1
        else:
            high = middle
    return low


@final
class PackedDocuments(Dataset):
    """Rows of whole documents, as far as they fit; a target is never another document's."""

    def __init__(self, tokens: Tokens, ends: Ends, seq_len: int, fill: int) -> None:
        """`fill`: the id in positions without a document, whose targets do not count."""
        self.tokens, self._ends, self._L, self._fill = tokens, ends, seq_len, fill
        self._stretch = HORIZON * seq_len
        self._packed: OrderedDict[int, list[list[Piece]]] = OrderedDict()

    @property
    def num_samples(self) -> int:
        whole, rest = divmod(len(self.tokens), self._stretch)
        return whole * (HORIZON + 1) + (self._rows(rest) if rest else 0)

    def _rows(self, tokens: int) -> int:
        # One more than the tokens fill: a piece that begins in a stretch may end after it.
        return -(-tokens // self._L) + 1

    def pieces(self, row: int) -> list[Piece]:
        """What a row has, in order."""
        stretch, at = divmod(row, HORIZON + 1)
        if stretch not in self._packed:
            first = stretch * self._stretch
            last = min(first + self._stretch, len(self.tokens))
            pieces = cut_documents(self._ends.between(first, last), first, last, self._L)
            self._packed[stretch] = pack(pieces, self._rows(last - first), self._L)
            if len(self._packed) > _KEPT:
                self._packed.popitem(last=False)
        return self._packed[stretch][at]

    def batch(self, indices: NDArray[np.int64]) -> Batch:
        rows = [self.pieces(int(index)) for index in indices]
        x_BL = np.full((len(rows), self._L), self._fill, dtype=np.int64)
        y_BL = np.full((len(rows), self._L), IGNORED, dtype=np.int64)
        for row, pieces in enumerate(rows):
            at = 0
            for begin, count in pieces:
                ids = self.tokens.read(begin, count + 1)
                x_BL[row, at : at + count], y_BL[row, at : at + count] = ids[:-1], ids[1:]
                at += count
        lengths = [[count for _, count in pieces] for pieces in rows]
        filled = [
            [*of_row, *([self._L - sum(of_row)] if sum(of_row) < self._L else [])] for of_row in lengths
        ]
        return Batch(torch.from_numpy(x_BL), torch.from_numpy(y_BL), documents=lay_out(filled))

    @property
    def token_bytes(self) -> NDArray[Any] | None:
        return self.tokens.token_bytes


def cut_documents(documents: Sequence[tuple[int, int]], first: int, last: int, most: int) -> list[Piece]:
    """The pieces of at most `most` inputs that begin in [first, last). Nothing follows its last token."""
    pieces = []
    for begin, end in documents:
        skipped = max(0, -(-(first - begin) // most))
        for at in range(begin + skipped * most, min(end - 1, last), most):
            pieces.append((at, min(most, end - 1 - at)))
    return pieces


def pack(pieces: Sequence[Piece], num_rows: int, length: int) -> list[list[Piece]]:
    """Into rows, longest first, each into the fullest that holds it; what fits nowhere fills what is left."""
    rows: list[list[Piece]] = [[] for _ in range(num_rows)]
    room = [(length, row) for row in range(num_rows)]  # in rising order
    left = []
    for piece in sorted(pieces, key=lambda piece: (-piece[1], piece[0])):
        at = bisect_left(room, (piece[1], -1))
        if at == len(room):
            left.append(piece)
            continue
        free, row = room.pop(at)
        rows[row].append(piece)
        insort(room, (free - piece[1], row))
    # Pieces of more than half a row can need more rows than their tokens fill. Then some are cut.
    for begin, count in left:
        while count:
            free, row = room.pop()
            taken = min(free, count)
            rows[row].append((begin, taken))
            insort(room, (free - taken, row))
            begin, count = begin + taken, count - taken
    return rows
