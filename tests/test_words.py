"""One word for one thing, and plain English: words of the private dialect that do not come back."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# pattern -> what to write instead
BANNED = {
    r"\bheld[ _-]?out\b|heldout": "validation",
    r"(?<!there )\b(is|are|was|were|be) no(?! longer| more| less|\w)": "is not a ...; there is no ...",
    r"(?<!left )(?<!nothing )\bbehind\b(?! a\b)": "after",
    r"\bmend(s|ed|ing)?\b": "fix",
    r"\banew\b": "again",
    r"\bhereabouts\b|\blikeliest\b": "near here; most likely",
    r"\b(goes|go|going|went|gone) on\b": "continue",
    r"\b(lies|lie|lay) (in|on|at|under)\b": "is in",
    r"\bno learning\b": "trivial baseline",
    r"\btells\b": "reports, shows",
    r"\blearnt\b": "learned",
    r"\blexicon\b": "vocabulary",
    r"\blr_factor\b": "lr_multiplier of the schedule, width_multiplier of muP, lr_amplification of the check",
    r"\bfinal_ratio\b": "min_lr_ratio",
}
# Old recipe keys, which are refused with the new one and still read in old runs.
ALLOWED = {
    "launcher/recipe/renamed.py",
    "launcher/data/generated.py",
    "tests/launcher/recipe/test_renamed.py",
    "tests/launcher/checkpoint/test_manifest.py",
    "tests/test_words.py",
}
FOLDERS = ("launcher", "models", "cluster", "recipes", "docs", "benchmarks", "tests")
FILES = ("README.md", "pyproject.toml", "Makefile", "Dockerfile")


def texts() -> list[str]:
    found = [
        path.relative_to(ROOT).as_posix()
        for folder in FOLDERS
        for kind in ("*.py", "*.md", "*.yaml", "*.toml", "*.json")
        for path in sorted((ROOT / folder).rglob(kind))
    ]
    return [path for path in (*FILES, *found) if path not in ALLOWED]


@pytest.mark.parametrize("pattern", BANNED)
def test_a_word_that_was_replaced_does_not_return(pattern: str) -> None:
    word = re.compile(pattern, re.IGNORECASE)
    found = [
        f"{path}:{number}: {line.strip()}"
        for path in texts()
        for number, line in enumerate((ROOT / path).read_text().splitlines(), 1)
        if word.search(line.replace("_", " "))
    ]
    assert not found, f"write {BANNED[pattern]!r}:\n" + "\n".join(found)
