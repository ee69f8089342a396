"""Other Pythons than this one, and no torch: where recipes are checked before a job is queued.

Found are python3.12 and python3.13 on PATH, or by pyenv. Each gets an environment of its own.
"""

import functools
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
VERSIONS = ("3.11", "3.12", "3.13")
THIS = f"{sys.version_info.major}.{sys.version_info.minor}"
PACKAGES = ("pydantic", "pyyaml", "fsspec", "numpy", "psutil", "rich")
FOLDERS = ("tests/launcher/recipe", "tests/cluster")


@functools.cache
def find_python(version: str) -> str | None:
    """An interpreter of that version; None where there is none."""
    found = [shutil.which(f"python{version}")]
    if (pyenv := shutil.which("pyenv")) is not None:
        asked = subprocess.run([pyenv, "root"], capture_output=True, text=True, check=False)
        found += map(str, sorted(Path(asked.stdout.strip()).glob(f"versions/{version}.*/bin/python")))
    for place in filter(None, found):
        # pyenv's own python3.12 is there for every version, and answers only for the chosen one
        if subprocess.run([place, "-c", ""], capture_output=True, check=False).returncode == 0:
            return place
    return None


def requirements() -> list[str]:
    """What the project asks for, of what is needed without torch; and pytest."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    names = {re.split(r"[<>=\[]", line)[0].lower(): line for line in listed}
    return [names[name] for name in (*PACKAGES, "pytest", "hypothesis")]


@pytest.mark.parametrize("version", [version for version in VERSIONS if version != THIS])
def test_recipes_and_clusters_need_neither_this_python_nor_torch(tmp_path: Path, version: str) -> None:
    python = find_python(version)
    if python is None:
        pytest.skip(f"there is no Python {version} here")
    there = str(tmp_path / "venv/bin/python")
    subprocess.run([python, "-m", "venv", str(tmp_path / "venv")], check=True)
    env = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "COV"))}
    env.pop("PYTHONPATH", None)
    pip = [there, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements()]
    subprocess.run(pip, env=env, check=True)
    env["PYTHONPATH"] = str(ROOT)

    def launch(*words: str) -> subprocess.CompletedProcess[str]:
        command = [there, "-m", "launcher", *words]
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)

    assert f"torch none, Python {version}." in launch("--version").stdout
    recipes = sorted(map(str, (ROOT / "recipes").glob("*.yaml")))
    done = launch("validate", *recipes)
    assert done.stdout.splitlines() == [f"{recipe}: ok" for recipe in recipes], done.stderr
    done = launch("plan", recipes[0])
    assert done.returncode == 2
    assert "launch plan: needs torch, which is not installed in this Python" in done.stderr

    words = ("-q", "-rA", "-p", "no:cacheprovider", "-m", "not slow", "--continue-on-collection-errors")
    folder = f"--basetemp={tmp_path / 'tests'}"
    done = subprocess.run(
        [there, "-m", "pytest", *words, folder, *FOLDERS],
        cwd=ROOT, env=env | {"PYTHONDONTWRITEBYTECODE": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    # what imports torch cannot be collected, and one test starts torchrun
    missing = re.findall(r"^E +ModuleNotFoundError: No module named '(\w+)", done.stdout, re.MULTILINE)
    assert set(missing) <= {"torch", "jsonschema"}, done.stdout[-4000:]
    assert sum(line.startswith("ERROR ") for line in lines) == len(missing), done.stdout[-4000:]
    failed = [line.partition(" - ")[0] for line in lines if line.startswith("FAILED ")]
    assert failed in ([], [TORCHRUN]), done.stdout[-4000:]
    assert sum(line.startswith("PASSED") for line in lines) > 600, done.stdout[-2000:]


TORCHRUN = "FAILED tests/cluster/test_local.py::test_torchrun_starts_every_process_and_prints_no_banner"
