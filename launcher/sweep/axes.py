"""Axes of a sweep, as they are written: `key=a,b,c` or, for a random search, `key=a..b`. Torch-free."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from launcher.errors import Problem, UserError

_OURS = re.compile(r"cluster|cluster\..*|parallel|parallel\.(engine|strategy|zero_stage|shard_size)")
_RANGE = re.compile(r"\d[\d.eE+-]*\.\.\d[\d.eE+-]*")
"""Numbers with two dots between them: a path such as ../data is a value."""

CROSSED = ("model.d_model", "seed")
"""Keys that a value is compared over, not chosen by: every draw is tried at all their values."""
CURVE_KEYS = ("model.d_model", "optim.lr", "seed")
"""Keys along which losses form the curves of one series."""


@dataclass(frozen=True, slots=True)
class Axis:
    """One key and its values, as written; an axis with one value is a plain override."""

    key: str
    values: tuple[str, ...]
    span: tuple[float, float] | None = None
    """Of `key=a..b`, from which a random search draws: smallest and largest."""
    whole: bool = False
    """Whether both ends are whole numbers, so that what is drawn is one too."""


def read_axes(words: Sequence[str]) -> tuple[Axis, ...]:
    """Read `key=a,b,c` and `key=a..b` words. Raises UserError with every one that is wrong, or repeated."""
    axes: list[Axis] = []
    problems: list[Problem] = []
    for word in words:
        key, equals, text = word.partition("=")
        place = f"axis {word!r}"
        values = split_values(text)
        if not equals or not key.strip() or not all(values):
            problems.append(Problem(place, "is not key=value,value,...", "for example optim.lr=1e-3,2e-3"))
        elif key in [axis.key for axis in axes]:
            problems.append(Problem(place, f"{key} is given twice", "write all its values after one key"))
        elif len(set(values)) < len(values):
            problems.append(Problem(place, f"has a value twice: {text}", "write each value once"))
        elif _OURS.fullmatch(key):
            message = "is not for a sweep: each point is trained by one process on this machine"
            problems.append(Problem(place, message, "launch a single recipe to shard it"))
        elif _RANGE.fullmatch(text.strip()):
            axes += _read_range(key.strip(), text, place, problems)
        else:
            axes.append(Axis(key.strip(), values))
    if problems:
        raise UserError(*problems)
    return tuple(axes)


def split_values(text: str) -> tuple[str, ...]:
    """Split at commas outside of brackets and quotes: `[a,b],[c]` has two values."""
    values, depth, quote, start = [], 0, "", 0
    for position, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        elif letter in "[{":
            depth += 1
        elif letter in "]}":
            depth -= 1
        elif letter == "," and depth == 0:
            values.append(text[start:position].strip())
            start = position + 1
    return (*values, text[start:].strip())


def _read_range(key: str, text: str, place: str, problems: list[Problem]) -> list[Axis]:
    """`1e-4..1e-1`: two positive numbers, the smaller one first."""
    ends = text.split("..")
    try:
        low, high = (float(end) for end in ends)
    except ValueError:
        low, high = 0.0, 0.0
    if not 0 < low < high:
        message = f"is not a range of two positive numbers, the smaller one first: {text}"
        problems.append(Problem(place, message, f"for example {key}=1e-4..1e-1"))
        return []
    whole = all(re.fullmatch(r"\d+", end.strip()) for end in ends)
    return [Axis(key, (text,), (low, high), whole)]
