"""Suffixes and exponents stand for exact whole numbers."""

import re

import pytest

from launcher.recipe.counts import PATTERN, as_count

COUNTS = {
    "2k": 2000,
    "2K": 2000,
    "500M": 500_000_000,
    "1.5B": 1_500_000_000,
    "1.50B": 1_500_000_000,
    "3T": 3 * 10**12,
    "1_000k": 1_000_000,
    "1e9": 10**9,
    "2.5E+3": 2500,
    "-2k": -2000,
    "0.001k": 1,
}
NO_COUNTS = [
    "",
    "k",
    "5",
    "1.5",
    "1.2345k",
    "1e-3",
    "5 k",
    "5kk",
    "5G",
    "0x1k",
    "1__0k",
    "1e9999",
    "1.e",
    "Mk",
]


@pytest.mark.parametrize("text", COUNTS)
def test_count_is_exact(text: str) -> None:
    assert as_count(text) == COUNTS[text]
    assert re.search(PATTERN, text)


@pytest.mark.parametrize("text", NO_COUNTS)
def test_other_text_is_not_a_count(text: str) -> None:
    assert as_count(text) is None
