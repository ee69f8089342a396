"""ListOps: classify nested list expressions by their value.

The rules are those of Long Range Arena (arXiv 2011.04006): an argument is an operator with probability 1/4
above the maximum depth, else a digit; operators are MIN, MAX, MED and SM (sum modulo 10) with 2 to `max_args`
arguments; expressions outside the wanted range of lengths are rejected. Its brackets around pairs are left
out, as is usual for training on it.
"""

import random
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray

from launcher.data.config import ListOpsSource
from launcher.data.dataset import Batch, Dataset
from launcher.data.order import stream_key
from launcher.errors import Problem, UserError

SYMBOLS = ("pad", *"0123456789", "[MIN", "[MAX", "[MED", "[SM", "]")
"""Token ids are positions in this table."""
NUM_VALUES = 10

_FIRST_DIGIT = SYMBOLS.index("0")
_FIRST_OPERATOR = SYMBOLS.index("[MIN")
_NUM_OPERATORS = 4
_END = SYMBOLS.index("]")
_OPERATOR_CHANCE = 0.25
# Long Range Arena's settings accept one expression in three; other settings may accept none at all.
_MOST_ATTEMPTS = 20_000


@final
class ListOps(Dataset):
    """Expressions padded at the end to seq_len. Sample i depends on (source.seed, validation, i) alone."""

    def __init__(self, source: ListOpsSource, *, seq_len: int, validation: bool) -> None:
        self._source = source
        self._seq_len = seq_len
        self._validation = validation

    @property
    def num_samples(self) -> int:
        return self._source.validation_samples if self._validation else self._source.train_samples

    def batch(self, indices: NDArray[np.int64]) -> Batch:
        drawn = [self._draw(int(index)) for index in indices]
        x_BL = torch.zeros(len(drawn), self._seq_len, dtype=torch.int64)
        for row, (tokens, _) in zip(x_BL, drawn, strict=True):
            row[: len(tokens)] = torch.tensor(tokens)
        return Batch(
            x=x_BL,
            y=torch.tensor([value for _, value in drawn]),
            lengths=torch.tensor([len(tokens) for tokens, _ in drawn]),
        )

    def baselines(self, indices: NDArray[np.int64]) -> dict[str, float]:
        """Accuracy of the most frequent value, and of the most frequent value for the root operator.

        Neither reads the list. Both are fitted to the samples they are scored on, so they are the most that
        such guesses can reach: about 0.17 and 0.37 by Long Range Arena's rules. A model below that has
        learned nothing.
        """
        table = np.zeros((_NUM_OPERATORS, NUM_VALUES), dtype=np.int64)
        for index in indices:
            tokens, value = self._draw(int(index))
            table[tokens[0] - _FIRST_OPERATOR, value] += 1
        count = max(1, len(indices))
        return {
            "most frequent value": int(table.sum(0).max()) / count,
            "root operator alone": int(table.max(1).sum()) / count,
        }

    def _draw(self, index: int) -> tuple[list[int], int]:
        """Tokens and value of one sample."""
        # Python guarantees that random(), and only random(), returns the same numbers in all its versions.
        stream = random.Random(stream_key(self._source.seed, int(self._validation), index))
        # Rejection sampling: every attempt draws further numbers from the same stream, so that the accepted
        # expression is still a function of the seed and the index alone.
        for _ in range(_MOST_ATTEMPTS):
            tokens: list[int] = []
            value = self._grow(stream, tokens, depth=1)
            if self._source.min_length <= len(tokens) <= self._seq_len:
                return tokens, value
        wanted = f"{self._source.min_length} to {self._seq_len} tokens"
        message = f"none of {_MOST_ATTEMPTS} expressions had {wanted}"
        raise UserError(
            Problem.at("data.source", message, "set another min_length, max_depth, max_args or data.seq_len")
        )

    def _grow(self, stream: random.Random, tokens: list[int], depth: int) -> int:
        """Append a random expression and return its value. The root is always an operator."""
        is_operator = depth == 1 or (depth < self._source.max_depth and stream.random() < _OPERATOR_CHANCE)
        if not is_operator:
            digit = int(stream.random() * NUM_VALUES)
            tokens.append(_FIRST_DIGIT + digit)
            return digit
        operator = int(stream.random() * _NUM_OPERATORS)
        num_args = 2 + int(stream.random() * (self._source.max_args - 1))
        tokens.append(_FIRST_OPERATOR + operator)
        args: list[int] = []
        for _ in range(num_args):
            # Too long already, so it will be rejected and its value never used. Without this, an
            # expression could grow to max_args ** (max_depth - 1) digits.
            if len(tokens) > self._seq_len:
                return 0
            args.append(self._grow(stream, tokens, depth + 1))
        tokens.append(_END)
        return _apply(operator, args)


def _apply(operator: int, args: list[int]) -> int:
    if operator == 0:
        return min(args)
    if operator == 1:
        return max(args)
    if operator == 2:  # for an even count the mean of the middle two, rounded down
        ordered = sorted(args)
        return (ordered[(len(args) - 1) // 2] + ordered[len(args) // 2]) // 2
    return sum(args) % NUM_VALUES
