"""In which values two recipes differ. Torch-free."""

import json
from collections.abc import Mapping
from typing import Any


def diff_rows(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[list[str]]:
    """A row of (key, value, value) for each difference; a key that one lacks has a dash."""
    ours, theirs = flat_values(first), flat_values(second)
    keys = dict.fromkeys([*ours, *theirs])
    return [
        [key, ours.get(key, "-"), theirs.get(key, "-")] for key in keys if ours.get(key) != theirs.get(key)
    ]


def flat_values(tree: Mapping[str, Any], above: str = "") -> dict[str, str]:
    """Values by dotted key, as a recipe's text has them."""
    found: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            found |= flat_values(value, f"{above}{key}.")
        else:
            found[f"{above}{key}"] = json.dumps(value, ensure_ascii=False).strip('"')
    return found
