"""Suggestions are few and near."""

import pytest

from launcher.recipe.suggest import close_matches

KEYS = ["steps", "global_batch_size", "micro_batch_size", "validate_every", "warmup_steps"]
CASES = [
    ("stpes", ["steps"]),
    ("tepss", ["steps"]),
    ("Steps", ["steps"]),
    ("validate-every", ["validate_every"]),
    ("validateEvery", ["validate_every"]),
    ("warmup", ["warmup_steps"]),
    ("batch_size", ["global_batch_size", "micro_batch_size"]),
    ("wibble", []),
    ("", []),
]


@pytest.mark.parametrize(("given", "expected"), CASES)
def test_near_words_are_found(given: str, expected: list[str]) -> None:
    assert close_matches(given, KEYS) == expected


def test_nothing_is_near_no_words() -> None:
    assert close_matches("x", []) == []
