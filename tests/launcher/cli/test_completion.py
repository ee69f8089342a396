"""The tab key: a real bash is asked what it would complete, in a folder with a run and a recipe."""

import subprocess
import sys
from pathlib import Path

import pytest

from launcher.cli.completion import recipe_keys
from tests.launch import assert_one_screen, launch
from tests.small_run import make_run, small_recipe

SHELL = """
launch() { "$PYTHON" -c 'import sys; from launcher.cli.main import main; sys.exit(main())' "$@"; }
eval "$(launch completion bash)"
compopt() { :; }
COMP_LINE=$1 COMP_POINT=${#1}
_launch
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("completion")
    make_run(found / "runs/s4-night", small_recipe())
    return found


def complete(line: str, folder: Path) -> list[str]:
    words = ["bash", "-c", SHELL, "bash", line]
    done = subprocess.run(
        words,
        cwd=folder,
        env={"PYTHON": sys.executable, "PATH": "/usr/bin:/bin"},
        text=True,
        capture_output=True,
        timeout=60,
    )
    assert not done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "among"),
    [
        ("launch res", ["resume"]),
        ("launch s4d-lm-q", ["s4d-lm-quickstart"]),
        ("launch resume s4-", ["s4-night"]),
        ("launch status lat", ["latest"]),
        ("launch plan s4d-lm-q", ["s4d-lm-quickstart"]),
        ("launch resume latest --no", ["--nodes"]),
        ("launch mine.yaml --dry", ["--dry-run"]),
        ("launch resume latest optim.l", ["optim.lr="]),
        ("launch mine.yaml parallel.strategy=f", ["fsdp2"]),
        ("launch mine.yaml track.mlflow.enabled=", ["true", "false"]),
    ],
)
def test_the_tab_key_completes(line: str, among: list[str], folder: Path) -> None:
    assert set(among) <= set(complete(line, folder))


def test_what_nothing_begins_like_is_left_to_the_shell(folder: Path) -> None:
    assert complete("launch xyzzy", folder) == []
    assert complete("launch cancel latest mi", folder) == []


def test_keys_are_those_of_recipes() -> None:
    keys = set(recipe_keys())
    assert {"optim.ssm.dt.lr=", "model.s4d.d_state=", "data.source.type=python-stdlib"} <= keys
    assert not [key for key in keys if "=" not in key]


@pytest.mark.parametrize(("shell", "words"), [("zsh", "bashcompinit"), ("fish", "commandline")])
def test_other_shells_get_a_script_of_their_own(shell: str, words: str, folder: Path) -> None:
    assert words in launch("completion", shell, folder=folder).stdout


def test_an_unknown_shell_is_refused(folder: Path) -> None:
    assert_one_screen(launch("completion", "tcsh", folder=folder), "tcsh", "bash")
