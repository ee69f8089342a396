"""A new run's folder belongs to one process, whoever else starts at the same moment."""

import errno
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from launcher import files
from launcher.cli.run import new_places
from launcher.errors import UserError
from launcher.run_folder import LOCK, claim, lock_holder, lock_run, unclaim
from launcher.world import World
from tests.launch import LAUNCH, assert_one_screen, launch
from tests.ranks import run_ranks
from tests.small_run import RECIPE, train_run
from tests.wait import wait_for


def claim_all(_world: World, folders: list[str]) -> list[bool]:
    return [claim(folder) for folder in folders]


def test_of_several_processes_one_gets_each_folder(tmp_path: Path) -> None:
    folders = [str(tmp_path / f"run-{number}") for number in range(50)]
    won = run_ranks(4, claim_all, folders)
    assert [sum(times) for times in zip(*won, strict=True)] == [1] * 50


def test_a_folder_that_was_given_back_is_free(tmp_path: Path) -> None:
    place = tmp_path / "runs/a"
    assert claim(str(place))
    assert (place / LOCK).stat().st_mode & 0o777 == 0o600
    unclaim(str(place))
    assert not place.exists()
    place.mkdir()
    assert claim(str(place)), "an empty folder of the user's own"


def test_what_was_written_is_not_given_back(tmp_path: Path) -> None:
    assert claim(str(tmp_path / "run"))
    (tmp_path / "run/recipe.yaml").write_text("")
    unclaim(str(tmp_path / "run"))
    assert (tmp_path / "run/recipe.yaml").exists()


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written: Not a directory"):
        claim(str(tmp_path / "file/run"))


def test_two_runs_of_one_second_have_two_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, "strftime", lambda _format: "20260101-000000")
    names = []
    for _ in range(3):
        names.append(next(place for place in new_places(None, "small") if claim(place)))
    first = f"{tmp_path}/runs/small-20260101-000000"
    assert names == [first, f"{first}-2", f"{first}-3"]


def test_of_two_launches_into_one_folder_one_is_refused_and_the_other_trains_its_own(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(RECIPE)
    words = [*LAUNCH, "small.yaml", "--run-dir", "run", "train.steps=6"]
    both = [
        subprocess.Popen(
            [*words, f"seed={seed}"],
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for seed in (1, 2)
    ]
    said = [process.communicate(timeout=240)[1] for process in both]
    codes = [process.returncode for process in both]
    assert sorted(codes) == [0, 2], said
    lost = codes.index(2)
    assert "is being started by another launch" in said[lost] or "already contains a run" in said[lost]
    assert f"seed: {2 - lost}\n" in (tmp_path / "run/recipe.yaml").read_text()


def test_a_launch_that_is_refused_leaves_no_folder(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(RECIPE)
    words = (
        "small.yaml",
        "--run-dir",
        "run",
        "cluster.type=auto",
        "cluster.nodes=2",
        "cluster.min_nodes=1",  # refused with and without sbatch on the path
        "parallel.strategy=ddp",
    )
    done = launch(*words, folder=tmp_path)
    assert done.returncode == 2, done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("engine", ["single", "fsdp2"])
@pytest.mark.parametrize("what", ["moved", "deleted"])
def test_a_run_whose_folder_is_gone_ends_and_does_not_make_it_again(
    tmp_path: Path, what: str, engine: str
) -> None:
    (tmp_path / "small.yaml").write_text(RECIPE)
    run = tmp_path / "run"
    shape = (f"cluster.nproc_per_node={1 + (engine == 'fsdp2')}", f"parallel.strategy={engine}")
    words = [*LAUNCH, "small.yaml", *shape, "--run-dir", "run", "train.steps=100000"]
    with open(tmp_path / "out.txt", "wb") as out:
        process = subprocess.Popen(words, cwd=tmp_path, stdout=out, stderr=subprocess.STDOUT)
    try:
        wait_for(lambda: (run / "checkpoints/step-0000000010/manifest.json").exists())
        if what == "moved":
            run.rename(tmp_path / "elsewhere")
        else:
            shutil.move(run, tmp_path / "trash")
            shutil.rmtree(tmp_path / "trash")
        assert process.wait(120) == 14
    finally:
        process.kill()
        process.wait()
    said = (tmp_path / "out.txt").read_text()
    assert not run.exists(), said
    assert "Traceback" not in said
    assert "storage: " in said
    if what == "moved":
        (tmp_path / "elsewhere").rename(run)
        done = launch("resume", "run", "train.steps=20", folder=tmp_path)
        assert done.returncode in (0, 2), done.stderr  # complete, where it was moved after step 20
        assert (run / "recipe.yaml").exists()


@pytest.mark.parametrize(
    ("free", "code", "said"),
    [
        (1_000, 2, "1e-06 GB are free, and a checkpoint has"),
        (300_000, 0, "up to 4 at a time"),
        (1 << 40, 0, ""),
        (None, 0, ""),
    ],
)
def test_space_that_is_known_to_be_missing_is_said_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int | None, code: int, said: str
) -> None:
    (tmp_path / "small.yaml").write_text(RECIPE)
    monkeypatch.setattr(files, "free_bytes", lambda _url: free)
    done = launch("small.yaml", "--run-dir", "run", "train.steps=6", folder=tmp_path)
    assert done.returncode == code, done.stderr
    assert said in done.stdout + done.stderr
    assert ("are free" in done.stdout + done.stderr) == bool(said)
    assert (tmp_path / "run").exists() == (code == 0)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_a_full_disk_is_one_line_when_a_run_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    train_run(tmp_path / "run")

    def write(url: str, content: bytes) -> None:
        raise OSError(number, os.strerror(number), url)

    monkeypatch.setattr(files, "write_bytes", write)
    done = launch("resume", "run", "train.steps=30", folder=tmp_path)
    assert_one_screen(done, os.strerror(number), "make room")


def test_the_lock_of_a_job_that_this_one_replaces_is_taken_over(tmp_path: Path) -> None:
    run_url = str(tmp_path)
    cut_off = lock_run(run_url, job="7")
    assert cut_off is not None
    for job, replaced in [(None, None), ("8", None), ("8", "6")]:
        with pytest.raises(UserError, match="is being trained by process .*, job 7"):
            lock_run(run_url, job=job, replaced=replaced)
    # Another start of the same job, and then a job in its place.
    second = lock_run(run_url, job="7")
    third = lock_run(run_url, job="8", replaced="7")
    assert second is not None
    assert third is not None
    assert str(lock_holder(run_url)).endswith(", job 8")
    second.close()
    cut_off.close()
    assert lock_holder(run_url) is not None, "those that were replaced release what nobody asks for"
    third.close()
    assert lock_holder(run_url) is None
