"""The image has the dependencies and the torch that the project names."""

import re
import subprocess
import sys
from pathlib import Path

from cluster.snapshot import describe_environment

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "Dockerfile").read_text()


def test_the_cpu_variant_has_the_torch_that_everything_is_tested_with() -> None:
    (torch,) = re.findall(r"^ARG TORCH=(\S+)$", TEXT, re.MULTILINE)
    assert f"torch=={torch}" in (ROOT / "constraints.txt").read_text().splitlines()


def test_dependencies_and_extras_are_listed_for_pip() -> None:
    (extras,) = re.findall(r"list-dependencies (.*) > ", TEXT)
    words = (sys.executable, str(ROOT / ".ci/list-dependencies"), *extras.split())
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    names = {re.split(r"[<>=]", line)[0] for line in done.stdout.splitlines()}
    assert {"torch", "deepspeed", "pydantic", "s3fs", "tokenizers", "matplotlib", "nvidia-ml-py"} <= names


def test_every_copied_file_is_there_and_sources_come_after_dependencies() -> None:
    copied = [word for line in re.findall(r"^COPY (.*)$", TEXT, re.MULTILINE) for word in line.split()[:-1]]
    assert all((ROOT / word).exists() for word in copied), copied
    assert TEXT.index("-r requirements.txt") < TEXT.index("COPY launcher")


def test_an_image_says_its_commit(tmp_path: Path) -> None:
    (tmp_path / "launcher").mkdir()
    assert describe_environment(tmp_path)["commit"] is None
    (tmp_path / "launcher/COMMIT").write_text("\n")
    assert describe_environment(tmp_path)["commit"] is None
    (tmp_path / "launcher/COMMIT").write_text("abc123\n")
    assert describe_environment(tmp_path)["commit"] == "abc123"
