"""JSON as in run folders: numbers that are not finite are written as three reserved strings. Torch-free."""

import json
import math
from collections.abc import Mapping
from typing import Any

_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
"""JSON has no such numbers, and most readers refuse a bare NaN; `float()` reads each of these strings."""


def dump_json(value: object, indent: int | None = None) -> str:
    """The text of mappings, sequences and scalars; on one line without an indent."""
    text = json.dumps(_to_plain(value), indent=indent, allow_nan=False, ensure_ascii=False)
    # Letters of any language stay readable. What no UTF-8 can hold, such as a byte of a file's name that was
    # never text, is written as JSON's own escape.
    return text.encode(errors="backslashreplace").decode()


def load_json(text: str | bytes) -> Any:
    """Inverse of dump_json. Raises ValueError if the text is not JSON."""
    return _from_plain(json.loads(text))


def _to_plain(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, Mapping):
        return {key: _to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_plain(item) for item in value]
    return value


def _from_plain(value: Any) -> Any:
    if isinstance(value, str):
        return _NON_FINITE.get(value, value)
    if isinstance(value, dict):
        return {key: _from_plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_from_plain(item) for item in value]
    return value
