"""Whole numbers as people write them: 500M, 2k, 1.5B, 1e9."""

import re

_COUNT = re.compile(r"([-+]?)([0-9]+(?:_[0-9]+)*)(?:\.([0-9]*))?(?:[eE]\+?([0-9]{1,3})|([kKMBT]))")
_POWERS = {"k": 3, "K": 3, "M": 6, "B": 9, "T": 12}
PATTERN = r"^[-+]?[0-9]+((_[0-9]+)+|(_[0-9]+)*(\.[0-9]*)?([eE]\+?[0-9]{1,3}|[kKMBT]))$"
"""The same, for editors that check a recipe against the JSON Schema."""


def as_count(text: str) -> int | None:
    """The exact whole number that a suffix or an exponent stands for, or None where there is none."""
    found = _COUNT.fullmatch(text)
    if found is None:
        return None
    sign, whole, fraction, exponent, suffix = found.groups()
    fraction = (fraction or "").rstrip("0")
    power = (int(exponent) if exponent else _POWERS[suffix]) - len(fraction)
    if power < 0:
        return None
    number = int(whole.replace("_", "") + fraction) * 10**power
    return -number if sign == "-" else number
