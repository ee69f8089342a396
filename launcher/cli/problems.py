"""How problems are shown: where, what, the line that is wrong with a caret below it, and what to do."""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from launcher.errors import Problem

QUIET, VERBOSE = ("-q", "--quiet"), ("-v", "--verbose")
SCREEN = 20
"""Most lines of an error message."""
_WIDTH = 100
_RED, _BOLD, _GREEN, _PLAIN = "\033[31m", "\033[1m", "\033[32m", "\033[0m"


def shown_lines(problems: Sequence[Problem], *, colour: bool) -> list[str]:
    """With source lines where all fit on a screen, else without any."""
    plain = [line for problem in problems for line in _lines(problem, [], colour=colour)]
    sources = [_source(problem, colour=colour) for problem in problems]
    if len(plain) + sum(map(len, sources)) > SCREEN:
        return plain
    pairs = zip(problems, sources, strict=True)
    return [line for problem, source in pairs for line in _lines(problem, source, colour=colour)]


def problem_lines(text: str, head: str = "launch:") -> list[str]:
    """Problems as they are shown; remedies are indented already."""
    return [line if line.startswith(" ") else f"{head} {line}" for line in text.splitlines()]


def wants_colour(stream: TextIO) -> bool:
    """Whether it is a terminal that shows colours, or FORCE_COLOR says so; never with NO_COLOR
    (no-color.org)."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or (stream.isatty() and os.environ.get("TERM") != "dumb")


def problem_records(problems: Sequence[Problem]) -> list[dict[str, str | None]]:
    """For programs."""
    return [
        {"place": p.place, "message": p.message, "remedy": p.remedy, "rule": p.rule or None} for p in problems
    ]


def problems_json(problems: Sequence[Problem]) -> str:
    """The same as text."""
    return json.dumps({"problems": problem_records(problems)}, indent=1, ensure_ascii=False)


def _lines(problem: Problem, source: Sequence[str], *, colour: bool) -> list[str]:
    first, *rest = problem_lines(str(problem), f"{_BOLD}{_RED}launch:{_PLAIN}" if colour else "launch:")
    return [first, *source, *rest]


def _source(problem: Problem, *, colour: bool) -> list[str]:
    """The line of a file that a problem is about, and a caret; nothing where there is none to read."""
    found = re.match(r"(.+?):(\d+):(\d+)$", problem.place)
    if found is None or "://" in found[1]:
        return []
    number, column = int(found[2]), int(found[3])
    try:
        lines = Path(found[1]).read_text(encoding="utf-8-sig").splitlines()
        line = lines[number - 1]
    except (OSError, ValueError, IndexError):
        return []
    # Long lines are cut around the place, and what moves a cursor is shown as a space.
    start = max(0, column - _WIDTH // 2) if len(line) > _WIDTH else 0
    text = "".join(letter if letter.isprintable() else " " for letter in line[start : start + _WIDTH])
    mark = " " * (column - 1 - start) + "^"
    gutter = f"{number:>6} | "
    below = " " * (len(gutter) - 2) + "| "
    return [gutter + text, below + (f"{_GREEN}{mark}{_PLAIN}" if colour else mark)]
