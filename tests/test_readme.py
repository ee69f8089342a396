"""The README is true: its links lead somewhere, its commands work, its output is what they print."""

import re
from pathlib import Path

import pytest

from launcher.cli.main import USAGE
from tests.launch import launch

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
DOCUMENTS = ["README.md", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_link_leads_to_a_file(name: str) -> None:
    text = (ROOT / name).read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    missing = [link for link in links if not ((ROOT / name).parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_file_named_is_there(name: str) -> None:
    named = re.findall(
        r"`((?:launcher|models|cluster|recipes|tests|docs|benchmarks)/[\w./-]*)`", (ROOT / name).read_text()
    )
    missing = [path for path in named if "NAME" not in path and not (ROOT / path).exists()]
    assert not missing


def test_the_readme_fits_on_a_page() -> None:
    assert len(README.splitlines()) < 215


def test_the_readme_and_the_help_name_the_same_verbs() -> None:
    in_help = set(re.findall(r"^  launch (\S+)", USAGE, re.MULTILINE))
    cells = re.findall(r"^\| (`launch .+?) \| ", README, re.MULTILINE)
    in_readme = {verb for cell in cells for verb in re.findall(r"`launch (\S+?)[ `]", cell)}
    assert in_help == in_readme


def commands() -> list[tuple[str, list[str]]]:
    """Every `$ command` of the README with the lines shown below it."""
    found: list[tuple[str, list[str]]] = []
    inside = False
    for line in README.splitlines():
        if line.startswith("    $ "):
            found.append((line.removeprefix("    $ "), []))
            inside = True
        elif inside and line.startswith("    "):
            found[-1][1].append(line.removeprefix("    "))
        else:
            inside = False
    return found


@pytest.mark.parametrize(("command", "shown"), commands())
def test_every_command_shown_prints_what_is_shown(command: str, shown: list[str]) -> None:
    words = command.split()
    assert words[0] == "launch"
    done = launch(*words[1:], folder=ROOT)
    printed = (done.stdout + done.stderr).splitlines()
    for line in shown:
        if line.strip() != "...":
            assert line in printed, f"{line!r} is not in:\n" + "\n".join(printed)


def test_the_make_targets_named_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`make ([\w-]+)`", README) + ["run", "test"]:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_quickstart_of_the_readme_trains(tmp_path: Path) -> None:
    recipe = str(ROOT / "recipes/s4d-lm-quickstart.yaml")
    done = launch(
        recipe, "train.steps=25", "train.validation_sequences=8", "--run-dir", "run", folder=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "step  20/25  loss" in done.stdout or "step 20/25  loss" in done.stdout
    assert (tmp_path / "mlflow.db").exists()


@pytest.mark.slow
def test_the_quickstart_learns_to_below_two_and_a_half_nats(tmp_path: Path) -> None:
    done = launch(
        str(ROOT / "recipes/s4d-lm-quickstart.yaml"), "--run-dir", "run", folder=tmp_path, timeout_s=900
    )
    validation = [float(loss) for loss in re.findall(r"validation +([\d.]+)", done.stdout)]
    assert validation[-1] < 2.5, done.stdout
