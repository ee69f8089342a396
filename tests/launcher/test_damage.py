"""Damage in a run folder beside its checkpoints: what can be rebuilt is; the rest is one line each."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.recipe.compile import DamagedRecipeError, load_frozen
from launcher.track.history import read_history
from launcher.track.journal import Journal, read_journal, step_records
from tests.launch import assert_one_screen, launch
from tests.small_run import RECIPE


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of 6 steps."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "small.yaml").write_text(RECIPE)
    done = launch("small.yaml", "--run-dir", "run", "train.steps=6", "checkpoint.every=3", folder=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A copy."""
    return shutil.copytree(finished, tmp_path / "copy")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def scramble(path: Path) -> None:
    path.write_bytes(b"\xff\xfe" + os.urandom(200))


@pytest.mark.parametrize("damage", [cut, flip, empty, scramble])
def test_a_damaged_recipe_is_never_trained_and_that_of_the_newest_checkpoint_is(
    folder: Path, damage: Callable[[Path], None]
) -> None:
    good = (folder / "run/recipe.yaml").read_text()
    damage(folder / "run/recipe.yaml")
    with pytest.raises(DamagedRecipeError):
        load_frozen(str(folder / "run/recipe.yaml"))
    assert_one_screen(launch("status", "run", folder=folder), "recipe.yaml")
    done = launch("resume", "run", "train.steps=7", folder=folder)
    assert done.returncode == 0, done.stderr
    assert "run/recipe.yaml is damaged: the recipe is that of step 6" in done.stdout
    rebuilt = (folder / "run/recipe.yaml").read_text()
    assert rebuilt.splitlines()[1:] == [
        line.replace("steps: 6", "steps: 7") for line in good.splitlines()[1:]
    ]


def test_a_changed_recipe_is_not_trained_unseen(folder: Path) -> None:
    path = folder / "run/recipe.yaml"
    path.write_text(path.read_text().replace("lr: 0.008", "lr: 0.009"))
    with pytest.raises(DamagedRecipeError, match="is not what was frozen: it was changed, or is damaged"):
        load_frozen(str(path))


@pytest.mark.parametrize("damage", [cut, empty, scramble])
@pytest.mark.parametrize("name", ["environment.json", "plan.json", "mlflow.json", "owner.json", "lock"])
def test_other_damaged_files_end_nothing(folder: Path, damage: Callable[[Path], None], name: str) -> None:
    if (folder / "run" / name).exists():
        damage(folder / "run" / name)
    else:
        scramble(folder / "run" / name)
    assert launch("status", "run", folder=folder).returncode == 0
    done = launch("resume", "run", "train.steps=7", folder=folder)
    assert done.returncode == 0, done.stderr


def test_the_first_folder_is_remembered_by_any_attempt(finished: Path, folder: Path, tmp_path: Path) -> None:
    assert launch("resume", "run", "train.steps=7", folder=folder).returncode == 0
    cut(folder / "run/environment.json")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = launch("resume", str(folder / "run"), "train.steps=8", folder=elsewhere)
    assert done.returncode == 0, done.stderr
    assert f'"cwd": "{finished}"' in (folder / "run/environment.json").read_text()


@pytest.mark.parametrize("verb", ["resume", "status", "replay", "verify"])
def test_a_folder_or_pipe_in_place_of_a_file_is_one_line(folder: Path, verb: str) -> None:
    journal = folder / "run/journal.jsonl"
    journal.unlink()
    journal.mkdir()
    (folder / "run/recipe.yaml").unlink()
    os.mkfifo(folder / "run/recipe.yaml")
    shutil.rmtree(folder / "run/logs")
    (folder / "run/logs").write_text("")
    places = (
        "run/journal.jsonl: is not a file",
        "run/recipe.yaml: is not a file",
        "run/logs: is not a folder",
    )
    assert_one_screen(launch(verb, "run", folder=folder), *places)


BAD_LINES = [
    b"garbage \xff\x00",
    b"[1, 2]",
    b"{}",
    b'{"event": "step", "time": 1.0, "attempt": 1}',
    b'{"event": "step", "step": "x", "time": 1.0, "attempt": 1}',
    b'{"event": "start", "run_name": 3, "time": 1.0, "attempt": 1}',
    b'{"event": "end", "time": 1.0, "attempt": 1}',
    b'{"event": "begin", "from_step": "q", "time": 1.0, "attempt": 1}',
    b"[" * 100_000,
]


def test_damaged_lines_of_a_journal_are_passed_over_and_counted(folder: Path) -> None:
    path = folder / "run/journal.jsonl"
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([*BAD_LINES, *lines, *BAD_LINES]) + b"\n")
    done = launch("status", "run", folder=folder)
    assert done.returncode == 0, done.stderr
    assert f"{2 * len(BAD_LINES)} damaged lines passed over" in done.stdout
    assert "state       done" in done.stdout
    done = launch("replay", "run", folder=folder)
    assert done.returncode == 0, done.stderr
    done = launch("resume", "run", "train.steps=7", folder=folder)
    assert done.returncode == 0, done.stderr
    assert sorted(step_records(path)) == list(range(1, 8))


def test_any_flipped_bit_of_a_line_is_found(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path, 1)
    journal.write("step", {"step": 1, "loss": 2.5, "name": "ünïcode"})
    journal.close()
    (record,) = read_journal(path)
    good = path.read_bytes()
    for at in range(8 * (len(good) - 1)):
        bad = bytearray(good)
        bad[at // 8] ^= 1 << at % 8
        path.write_bytes(bad)
        # Or it is in the name of the checksum, and all the rest is as it was.
        assert all(found.items() >= record.items() for found in read_journal(path)), bad
    path.write_bytes(good)
    assert read_history(path).damaged == 0
