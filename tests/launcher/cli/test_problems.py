"""Problems as they are shown: the wrong line, a caret, one screen, JSON; flags that are misspelled."""

import io
import json
from pathlib import Path

import pytest

from launcher.cli.problems import SCREEN, shown_lines, wants_colour
from launcher.errors import Problem
from tests.launch import launch

ROOT = Path(__file__).parents[3]
RECIPE = (ROOT / "recipes" / "s4-lm-1b.yaml").read_text()


def wrong(folder: Path) -> Path:
    path = folder / "wrong.yaml"
    path.write_text(RECIPE.replace("lr: 4e-3", "lr: 0,004").replace("steps: 20_000", "stepps: 20_000"))
    return path


def test_the_wrong_line_is_shown_with_a_caret(tmp_path: Path) -> None:
    path = wrong(tmp_path)
    done = launch("plan", str(path), folder=ROOT)
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    (number,) = [at for at, line in enumerate(RECIPE.splitlines(), 1) if "lr: 4e-3" in line]
    assert lines[0] == f"launch: {path}:{number}:7: optim.lr is '0,004', must be a number > 0"
    assert lines[1].startswith(f"{number:>6} |   lr: 0,004 ")
    assert lines[2].index("^") == lines[1].index("0,004")
    assert lines[3] == "    write 0.004 with a decimal point"
    assert "stepps" in lines[5]
    assert "\033" not in done.stderr


def test_colour_is_for_terminals_and_marks_head_and_caret(tmp_path: Path) -> None:
    problem = Problem(f"{wrong(tmp_path)}:4:1", "is wrong", "fix it")
    first, _, caret, remedy = shown_lines([problem], colour=True)
    assert first.startswith("\033[1m\033[31mlaunch:\033[0m ")
    assert "\033[32m^\033[0m" in caret
    assert remedy == "    fix it"


def test_many_problems_are_one_screen_without_their_lines(tmp_path: Path) -> None:
    path = wrong(tmp_path)
    few = [Problem(f"{path}:{line}:1", "is wrong", "fix it") for line in range(1, 5)]
    assert len(shown_lines(few, colour=False)) == 4 * len(few)
    many = [Problem(f"{path}:{line}:1", "is wrong", "fix it") for line in range(1, 9)]
    assert len(shown_lines(many, colour=False)) == 2 * len(many) <= SCREEN


@pytest.mark.parametrize("place", ["override 'a=b'", "nowhere.yaml:1:1", "s3://bucket/x.yaml:1:1"])
def test_a_place_without_a_line_is_shown_alone(place: str) -> None:
    assert shown_lines([Problem(place, "is wrong")], colour=False) == [f"launch: {place}: is wrong"]


def test_a_long_line_is_cut_around_the_place(tmp_path: Path) -> None:
    path = tmp_path / "long.yaml"
    path.write_text("x" * 500 + "HERE" + "y" * 500)
    _, line, caret = shown_lines([Problem(f"{path}:1:501", "is wrong")], colour=False)
    assert line[caret.index("^") :].startswith("HERE")
    assert len(line) < 120


def test_errors_are_json_where_json_is_asked_for(tmp_path: Path) -> None:
    done = launch("plan", str(wrong(tmp_path)), "--json", folder=ROOT)
    assert done.returncode == 2
    assert done.stderr == ""
    first, second = json.loads(done.stdout)["problems"]
    assert first["remedy"] == "write 0.004 with a decimal point"
    assert second["message"] == "unknown key 'stepps' in train"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("plan", "x.yaml", "--ndoes", "8"), "launch plan --ndoes: unknown flag\n    did you mean --nodes?"),
        (("resume", "run", "--frsh"), "launch resume --frsh: unknown flag\n    did you mean --fresh?"),
        (("x.yaml", "--dryrun"), "launch --dryrun: unknown flag\n    did you mean --dry-run?"),
        (("logs", "run", "--lines=3"), "launch logs --lines: unknown flag\n    flags are --help, --follow,"),
        (("plan", "x.yaml", "--nodes", "many"), "got 'many'; write a number, or a range such as 2:4"),
        (("inspect",), "the following arguments are required: checkpoint"),
    ],
)
def test_a_wrong_flag_is_one_problem_with_what_was_meant(words: tuple[str, ...], said: str) -> None:
    done = launch(*words, folder=ROOT)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) <= 3


@pytest.mark.parametrize(
    ("terminal", "env", "expected"),
    [
        (True, {}, True),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"TERM": "dumb"}, False),
        (False, {}, False),
        (False, {"FORCE_COLOR": "1"}, True),
        (True, {"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
    ],
)
def test_colours_are_for_who_can_see_and_wants_them(
    terminal: bool, env: dict[str, str], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: terminal)
    assert wants_colour(stream) == expected
