"""Whole numbers as people write them: 500M, 2k, 1.5B, 1e9."""

import re

_COUNT = re.compile(r"([-+]?)([0-9]+(?:_[0-9]+)*)(?:\.([0-9]*))?(?:[eE]\+?([0-9]{1,3})|([kKMBT]))")
_POWERS = {"k": 3, "K": 3, "M": 6, "B": 9, "T": 12}
PATTERN = r"^[-+]?[0-9]+((_[0-9]+)+|(_[0-9]+)*(\.[0-9]*)?([eE]\+?[0-9]{1,3}|[kKMBT]))$"
"""The same, for editors that check a recipe against the JSON Schema."""


def as_count(text: str) -> int | None:
    """The exact whole number that a suffix or an exponent stands for, or None if there is none."""
    # In integers, not floats: 1.5B is "15" and power 9 - 1, so 15 * 10^8 exactly. 1.2345k has power 3 - 4 =
    # -1, and is not a whole number.
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
