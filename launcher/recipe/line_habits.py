"""The line that broke a file, where the parser names the one after it. Pure text."""

import re
import unicodedata

from launcher.recipe.habits import BLANK

_KEY = r"[A-Za-z_][\w.]*"


def culprit(lines: list[str], at: int) -> tuple[int, int, str, str] | None:
    """Line, column (from 0), message and remedy of the line before `at`, unless that is `key: value`."""
    before = _last(lines, at)
    if before is None:
        return None
    line, above = lines[before].split(" #")[0].rstrip(), _last(lines, before)
    found = _strange(line) or _not_a_pair(line)
    found = found or _lost_indent(
        line, lines[at], "" if above is None else lines[above].split(" #")[0].rstrip()
    )
    return None if found is None else (before, *found)


def _last(lines: list[str], at: int) -> int | None:
    """The last line before `at` that is neither blank nor a comment."""
    filled = [i for i in range(at) if lines[i].strip() and not lines[i].lstrip().startswith("#")]
    return filled[-1] if filled else None


def _strange(line: str) -> tuple[int, str, str] | None:
    for column, letter in enumerate(line):
        if letter in BLANK:
            name = unicodedata.name(letter).lower()
            return column, f"a {name} (U+{ord(letter):04X}), which YAML takes for text", "write a plain space"
    return None


def _not_a_pair(line: str) -> tuple[int, str, str] | None:
    indent = len(line) - len(line.lstrip())
    if found := re.fullmatch(rf"\s*({_KEY}):(\S.*)", line):
        return indent, f"`{line.strip()}` has no space after the colon", f"write {found[1]}: {found[2]}"
    if found := re.fullmatch(rf"\s*({_KEY})\s*=\s*(\S.*)", line):
        return indent, f"`{line.strip()}` is not `key: value`", f"write {found[1]}: {found[2]}"
    return None


def _lost_indent(line: str, after: str, above: str) -> tuple[int, str, str] | None:
    """A key with a value of its own between a section's head, or its neighbours, and more of them."""
    indent, below, before = (len(text) - len(text.lstrip()) for text in (line, after, above))
    is_inside = bool(above) and (before == below or above.endswith(":"))
    if is_inside and below > indent and re.fullmatch(rf"\s*{_KEY}: +\S.*", line):
        remedy = f"indent it like the line after it, by {below} spaces, or indent that one less"
        return indent, f"`{line.strip()}` is not indented like what follows it", remedy
    return None
