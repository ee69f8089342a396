"""`launch init --extension`: what it writes installs, trains, and passes the tests that it brings."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.launch import ENVIRONMENT, LAUNCH, launch

ROOT = str(Path(__file__).parents[3])


def begin(folder: Path, name: str) -> dict[str, str]:
    """A new extension, installed; returns the environment in which it is."""
    done = launch("init", "--extension", name, folder=folder)
    assert done.returncode == 0, done.stderr
    assert f"next: pip install -e './{name}[test]'; pytest {name}" in done.stdout
    words = ("install", "--quiet", "--no-deps", "--no-build-isolation", "--target", "site", f"./{name}")
    subprocess.run([sys.executable, "-m", "pip", *words], cwd=folder, check=True)
    return {**os.environ, **ENVIRONMENT, "PYTHONPATH": os.pathsep.join((ROOT, str(folder / "site")))}


def run_tests(folder: Path, name: str, env: dict[str, str], *words: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words, name]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_new_extension_installs_passes_its_quick_tests_and_trains(tmp_path: Path) -> None:
    env = begin(tmp_path, "my_layer")
    run_tests(tmp_path, "my_layer", env, "-k", "twin or whole or later")
    words = (*LAUNCH, "my_layer/recipe.yaml", "train.steps=12", "--run-dir", "run")
    done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    text = "".join(path.read_text() for path in (tmp_path / "my_layer").rglob("*.*") if path.is_file())
    assert "gatedconv" not in text.lower()
    assert "class MyLayerConfig" in text


@pytest.mark.slow
def test_a_new_extension_passes_all_tests_that_it_brings(tmp_path: Path) -> None:
    run_tests(tmp_path, "my_layer", begin(tmp_path, "my_layer"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--extension", "s4"), "is the name of something else already"),
        (("--extension", "json"), "is the name of something else already"),
        (("--extension", "My-Layer"), "use small letters, digits and _"),
        (("s4d-lm-tiny", "--extension", "mine"), "not both"),
        (("--extension", "mine", "-o", "taken"), "exists already"),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    (tmp_path / "taken").mkdir()
    done = launch("init", *words, folder=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
