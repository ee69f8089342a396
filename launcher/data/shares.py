"""Which part of a mixture each sample comes from: exact shares at every sample, and any sample found at once.

R. Tijdeman, "The chairman assignment problem", Discrete Mathematics 32 (1980): of K parts with shares w_k,
after any n samples each part has had n w_k of them to within 1 - 1/(2K - 2). The pattern repeats, so what
any sample is follows from a table: no state, no seed.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import final

import numpy as np
from numpy.typing import NDArray

LONGEST = 1 << 16
"""Samples in the pattern at most: weights that need more are rounded to multiples of 1 / LONGEST."""


@final
class Shares:
    """Weights as a repeated pattern of parts."""

    def __init__(self, weights: Sequence[float]) -> None:
        if not weights or min(weights) <= 0 or not all(map(math.isfinite, weights)):
            raise ValueError(f"weights are {list(weights)}; allowed: numbers above 0")
        self.counts = _whole(weights)
        """Samples of each part in one pattern."""
        self.length = sum(self.counts)
        self._parts = _assign(self.counts)
        one_hot = self._parts[:, None] == np.arange(len(self.counts))
        # before[n, k]: samples of part k among the first n of a pattern.
        self._before = np.concatenate([np.zeros((1, len(self.counts)), np.int64), one_hot.cumsum(axis=0)])

    def up_to(self, count: int) -> NDArray[np.int64]:
        """Samples of each part among the first `count`."""
        patterns, rest = divmod(count, self.length)
        found: NDArray[np.int64] = patterns * np.array(self.counts, dtype=np.int64) + self._before[rest]
        return found

    def of(self, samples: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The part of each sample, and its number among the samples of that part."""
        patterns, places = samples // self.length, samples % self.length
        parts = self._parts[places]
        return parts, patterns * np.array(self.counts, dtype=np.int64)[parts] + self._before[places, parts]


def _whole(weights: Sequence[float]) -> list[int]:
    """Whole numbers in the proportion of the weights, as they are written: 0.7 is 7/10."""
    exact = [Fraction(str(weight)) for weight in weights]
    shares = [weight / sum(exact) for weight in exact]
    length = math.lcm(*(share.denominator for share in shares))
    if length <= LONGEST:
        return [int(share * length) for share in shares]
    # Largest remainders, and at least one sample for each part.
    counts = [max(1, math.floor(share * LONGEST)) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda k: counts[k] - shares[k] * LONGEST)
    for k in by_remainder[: max(0, LONGEST - sum(counts))]:
        counts[k] += 1
    return counts


def _assign(counts: Sequence[int]) -> NDArray[np.int64]:
    """Tijdeman's rule, in whole numbers: of the parts that may have the next sample, the one due earliest."""
    length, share = sum(counts), np.array(counts, dtype=np.int64)
    if len(counts) == 1:
        return np.zeros(length, dtype=np.int64)
    steps = 2 * len(counts) - 2
    had = np.zeros(len(counts), dtype=np.int64)
    parts = np.empty(length, dtype=np.int64)
    for n in range(1, length + 1):
        # n w_k - (samples had), times length and 2K - 2.
        owed = (n * share - had * length) * steps
        may = owed >= length
        due = np.where(may, (length * (steps - 1) - owed) / share, np.inf)
        parts[n - 1] = k = int(due.argmin())
        had[k] += 1
    return parts
