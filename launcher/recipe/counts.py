"""Numbers as people write them: 500M, 2k, 1.5B, 1e9; 2h, 90s, 80GB where a key has that unit."""

import re

_COUNT = re.compile(r"([-+]?)([0-9]+(?:_[0-9]+)*)(?:\.([0-9]*))?(?:[eE]\+?([0-9]{1,3})|([kKMBT]))")
_POWERS = {"k": 3, "K": 3, "M": 6, "B": 9, "T": 12}
PATTERN = r"^[-+]?[0-9]+((_[0-9]+)+|(_[0-9]+)*(\.[0-9]*)?([eE]\+?[0-9]{1,3}|[kKMBT]))$"
"""The same, for editors that check a recipe against the JSON Schema."""
NUMBER = r"^[-+]?([0-9]+(_[0-9]+)*(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?$"
"""Numbers that YAML 1.1 takes for text, such as 4e-3."""


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


_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([A-Za-z]+)")
_SECONDS = {"s": 1, "sec": 1, "min": 60, "m": 60, "h": 3600, "d": 86400}
_BYTES = {"GB": 1000**3, "GiB": 1024**3, "TB": 1000**4, "TiB": 1024**4, "MB": 1000**2, "MiB": 1024**2}
_UNITS = {"_s": (_SECONDS, 1), "_min": (_SECONDS, 60), "_hours": (_SECONDS, 3600), "_gib": (_BYTES, 1024**3)}


def as_bytes(text: str) -> int | None:
    """Bytes of `64MiB` or `1.5GB`; None for anything else."""
    found = _QUANTITY.fullmatch(text)
    return int(float(found[1]) * _BYTES[found[2]]) if found is not None and found[2] in _BYTES else None


def as_quantity(key: str, text: str) -> float | None:
    """What `2h` is in the unit that a key's name ends in; None where either has none."""
    unit = next((found for ending, found in _UNITS.items() if key.endswith(ending)), None)
    found = _QUANTITY.fullmatch(text)
    if unit is None or found is None or found[2] not in unit[0]:
        return None
    number = float(found[1]) * unit[0][found[2]] / unit[1]
    return int(number) if number.is_integer() else number
