"""docs/first-hour.md is true: each part's commands, in an empty folder, print the lines that it shows."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[1] / "docs/first-hour.md").read_text()


def parts() -> dict[str, list[tuple[str, list[str]]]]:
    """By title: each command with the lines shown below it."""
    found: dict[str, list[tuple[str, list[str]]]] = {}
    commands: list[tuple[str, list[str]]] = []
    for line in PAGE.splitlines():
        if line.startswith("## "):
            commands = found.setdefault(line.removeprefix("## "), [])
        elif line.startswith("    $ "):
            commands.append((line.removeprefix("    $ "), []))
        elif line.startswith("    ") and commands:
            commands[-1][1].append(line.removeprefix("    "))
    return {title: commands for title, commands in found.items() if commands}


def pattern(shown: str) -> str:
    """A line in which `...` is anything."""
    return r"\s+".join(re.escape(word).replace(r"\.\.\.", ".*") for word in shown.split())


def test_eight_parts_of_eleven_are_commands() -> None:
    assert len(re.findall(r"^## ", PAGE, re.MULTILINE)) == 11
    assert len(parts()) == 8
    assert sum(len(commands) for commands in parts().values()) >= 20


@pytest.mark.parametrize(
    "title",
    [pytest.param(title, marks=[] if title == "Look around" else pytest.mark.slow) for title in parts()],
)
def test_a_part_prints_what_it_shows(title: str, tmp_path: Path) -> None:
    programs = Path(sys.executable).parent
    environment = os.environ | {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    for command, shown in parts()[title]:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )
        for line in shown:
            assert re.search(rf"^\s*{pattern(line)}\s*$", done.stdout, re.MULTILINE), (
                f"{command}\n{done.stdout}"
            )
