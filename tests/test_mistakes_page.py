"""docs/mistakes.md: what is printed of five mistakes, and that what it says helps."""

import re
from pathlib import Path

import pytest

from tests.launch import launch

ROOT = Path(__file__).parents[1]
SOURCE = (ROOT / "tests" / "launcher" / "recipe" / "mistakes_recipe.yaml").read_text()
PARTS = (ROOT / "docs" / "mistakes.md").read_text().split("\n## ")[1:]


def replaced(fixed: str, written: str) -> str:
    """The recipe with the line of a fixed value written another way."""
    (line,) = [
        line
        for line in SOURCE.splitlines()
        if line.partition("#")[0].strip() == fixed.replace("0.004", "4e-3")
    ]
    return SOURCE.replace(line, f"  {written}", 1)


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.splitlines()[0])
def test_what_is_printed_is_on_the_page_and_helps(part: str, tmp_path: Path) -> None:
    (written,) = re.findall(r"^Written: `(.*)`$", part, re.MULTILINE)
    (fixed,) = re.findall(r"^Done: `(.*)`$", part, re.MULTILINE)
    shown = [line[4:] for line in part.splitlines() if line.startswith("    ")]
    (tmp_path / "wrong.yaml").write_text(replaced(fixed, written))
    done = launch("validate", "wrong.yaml", folder=tmp_path)
    assert ["$ launch validate wrong.yaml", *(done.stdout + done.stderr).splitlines()] == shown
    (tmp_path / "wrong.yaml").write_text(replaced(fixed, fixed))
    assert launch("validate", "wrong.yaml", folder=tmp_path).stdout == "wrong.yaml: ok\n"


def test_there_are_five() -> None:
    assert len(PARTS) == 5
