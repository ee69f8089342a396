"""Recipes by name, from a checkout or a wheel in an empty folder; what is installed says what it is."""

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import launcher
from cluster.snapshot import describe_environment, digest_sources, read_diff
from launcher.errors import UserError
from launcher.recipe.compile import load_recipe
from launcher.shipped import find_recipe, shipped_recipes
from tests.launch import assert_one_screen, launch

ROOT = Path(__file__).parents[2]


def test_every_recipe_is_found_by_name_and_by_path_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert set(shipped_recipes()) == {path.stem for path in (ROOT / "recipes").glob("*.yaml")}
    for word in ("s4d-lm-tiny", "s4d-lm-tiny.yaml", "recipes/s4d-lm-tiny.yaml"):
        assert load_recipe(word).recipe.name == "s4d-lm-tiny"
    with pytest.raises(UserError, match="did you mean s4d-lm-tiny"):
        load_recipe("recipes/s4d-lm-tinny.yaml")


def test_a_file_of_that_path_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s4d-lm-tiny.yaml").write_text("mine")
    assert find_recipe("s4d-lm-tiny.yaml") == "s4d-lm-tiny.yaml"
    assert find_recipe("elsewhere/s4d-lm-tiny.yaml") == "elsewhere/s4d-lm-tiny.yaml"


def test_init_copies_a_recipe_and_overwrites_nothing(tmp_path: Path) -> None:
    done = launch("init", "s4d-lm-tiny", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "next: launch s4d-lm-tiny.yaml" in done.stdout
    assert (tmp_path / "s4d-lm-tiny.yaml").read_text() == shipped_recipes()["s4d-lm-tiny"].read_text()
    assert_one_screen(launch("init", "s4d-lm-tiny", folder=tmp_path), "exists already", "-o FILE")
    assert_one_screen(launch("init", "s4d-lm-tyny", folder=tmp_path), "did you mean s4d-lm-tiny")


def test_what_is_taken_is_said(tmp_path: Path) -> None:
    done = launch("s4d-lm-quickstart", "--dry-run", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"recipe: {ROOT}/recipes/s4d-lm-quickstart.yaml, which is shipped")


def test_the_version_says_code_torch_python_and_devices(tmp_path: Path) -> None:
    done = launch("--version", folder=tmp_path)
    expected = rf"mulaunch {launcher.__version__} \(\S+.*\), torch \S+, Python \S+, .*(GPU|CPU).*\n"
    assert re.fullmatch(expected, done.stdout), done.stdout
    assert launch("help", "plan", folder=tmp_path).stdout == launch("plan", "--help", folder=tmp_path).stdout


def test_a_repository_that_is_not_ours_is_not_asked(tmp_path: Path) -> None:
    def git(*words: str) -> None:
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        subprocess.run(["git", *who, *words], cwd=tmp_path, check=True, capture_output=True)

    git("init", "-q")
    (tmp_path / "secret.txt").write_text("theirs")
    git("add", "-A")
    git("commit", "-qm", "theirs")
    (tmp_path / "secret.txt").write_text("not yet theirs")
    packages = tmp_path / "venv" / "site-packages"
    (packages / "launcher").mkdir(parents=True)
    (packages / "launcher" / "a.py").write_text("x = 1")
    about = describe_environment(packages)
    assert (about["commit"], about["dirty"], read_diff(packages)) == (None, False, "")
    assert about["sources"] == digest_sources(packages)
    (packages / "launcher" / "a.py").write_text("x = 2")
    assert about["sources"] != digest_sources(packages)


def test_a_wheel_in_an_empty_folder_has_recipes_and_says_what_it_is(tmp_path: Path) -> None:
    def run(*words: str) -> str:
        folder = tmp_path / "empty"
        folder.mkdir(exist_ok=True)
        plain = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        done = subprocess.run(words, cwd=folder, env=plain, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    run(
        *pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), str(_copy(tmp_path))
    )
    (wheel,) = tmp_path.glob("*.whl")
    run(sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv"))
    run(*pip, "--python", str(tmp_path / "venv/bin/python"), "install", "--no-deps", "--no-index", str(wheel))
    # What it depends on, as it is here; paths in a .pth come after the environment's own.
    (packages,) = (tmp_path / "venv").glob("lib/*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    launch_there = str(tmp_path / "venv/bin/launch")
    assert "(sha256:" in run(launch_there, "--version")
    assert "s4d-lm-quickstart" in run(launch_there, "recipes")
    assert "s4d-lm-quickstart" in run(launch_there, "plan", "recipes/s4d-lm-quickstart.yaml")
    assert "launch s4d-lm-tiny.yaml" in run(launch_there, "init", "s4d-lm-tiny")
    assert run(launch_there, "validate", "s4d-lm-tiny.yaml") == "s4d-lm-tiny.yaml: ok\n"
    shared = tmp_path / "venv/share/mulaunch"
    line = (shared / "recipes/s4d-lm-tiny.yaml").read_text().splitlines()[0]
    assert (shared / "recipes" / line.partition("$schema=")[2]).exists()
    assert "mine/tests/test_layer.py" in run(launch_there, "init", "--extension", "mine")


def _copy(tmp_path: Path) -> Path:
    """The sources as git has them: setuptools would leave build/ in ours."""
    copy = tmp_path / "sources"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    return copy
