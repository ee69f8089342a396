"""Suffixes and exponents stand for exact whole numbers."""

import re

import pytest

from launcher.errors import UserError
from launcher.recipe.compile import load_recipe
from launcher.recipe.counts import NUMBER, PATTERN, as_count, as_quantity
from launcher.recipe.hints import find_hints

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


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("timeout_s", "2h", 7200),
        ("time_min", "24h", 1440),
        ("time_min", "90s", 1.5),
        ("node_mtbf_hours", "30d", 720),
        ("warning_s", "5 min", 300),
        ("memory_gib", "80GB", 80e9 / 1024**3),
        ("memory_gib", "80GiB", 80),
        ("steps", "2h", None),
        ("timeout_s", "2x", None),
        ("timeout_s", "80GB", None),
    ],
)
def test_a_quantity_is_in_the_unit_of_its_key(key: str, text: str, value: float | None) -> None:
    assert as_quantity(key, text) == value


def test_units_are_taken_in_a_recipe() -> None:
    words = ["cluster.time_min=24h", "cluster.warning_s=2min", "parallel.timeout_s=0.5h"]
    recipe = load_recipe("recipes/s4-lm-1b.yaml", words).recipe
    assert (recipe.cluster.time_min, recipe.cluster.warning_s, recipe.parallel.timeout_s) == (1440, 120, 1800)


def test_half_a_minute_is_refused_where_minutes_are_whole() -> None:
    with pytest.raises(UserError, match="cluster.time_min is '90s', must be a whole number"):
        load_recipe("recipes/s4-lm-1b.yaml", ["cluster.time_min=90s"])


@pytest.mark.parametrize("text", ["4e-3", "1", "1.5", ".5", "-2e5", "1_000"])
def test_numbers_that_are_text_to_yaml_11_are_numbers_to_editors(text: str) -> None:
    assert re.search(NUMBER, text)


@pytest.mark.parametrize(
    ("text", "asked"), [("256k", True), ("4k", True), ("250k", False), ("262144", False)]
)
def test_thousands_that_look_like_powers_of_two_are_asked_about(text: str, asked: bool) -> None:
    loaded = load_recipe("recipes/s4-lm-tiny.yaml", [f"data.seq_len={text}"])
    found = [hint for hint in find_hints(loaded) if "x 1024" in hint.remedy]
    assert bool(found) == asked
