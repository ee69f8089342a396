"""JSON of run folders: strict for every reader, with one spelling of what JSON cannot hold."""

import json
import math

import pytest

from launcher.json_text import dump_json, load_json


def _refuse(word: str) -> float:
    raise AssertionError(f"{word} is not JSON")


@pytest.mark.parametrize(
    ("value", "spelling"), [(math.nan, "NaN"), (math.inf, "Infinity"), (-math.inf, "-Infinity")]
)
def test_a_number_that_is_not_finite_has_one_spelling_at_every_depth(value: float, spelling: str) -> None:
    text = dump_json({"top": value, "list": [{"deep": (value, 1.5)}]})
    plain = json.loads(text, parse_constant=_refuse)
    assert plain == {"top": spelling, "list": [{"deep": [spelling, 1.5]}]}
    assert math.isclose(float(spelling), value) or math.isnan(value)  # for scripts without our reader
    restored = load_json(text)
    assert repr(restored) == repr({"top": value, "list": [{"deep": [value, 1.5]}]})


def test_other_strings_stay_strings_whatever_number_they_spell() -> None:
    value = {
        "name": "inf",
        "word": "nan",
        "note": "naïve\nline",
        "cwd": "/runs/\udce9",
        "count": 3,
        "none": None,
    }
    assert load_json(dump_json(value, indent=1).encode()) == value
