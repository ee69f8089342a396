"""`launch RECIPE` and `launch resume RUN`, for real: torchrun, gloo, kill -9."""

import fcntl
import json
import shutil
from pathlib import Path

import pytest

from launcher import submit
from launcher.cli.main import main
from launcher.track.journal import step_records
from tests.launch import assert_one_screen, launch, launch_and_kill, launch_rank
from tests.small_run import RECIPE

OPTIONS = ("small.yaml", "parallel.strategy=fsdp2", "--nproc-per-node", "2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe and one finished run, `whole`."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "small.yaml").write_text(RECIPE)
    done = launch(*OPTIONS, "track.mlflow.enabled=true", "--run-dir", "whole", folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder / "output.txt").write_text(done.stdout)
    return folder


def test_a_run_says_where_everything_is_and_what_to_try_next(folder: Path) -> None:
    out = (folder / "output.txt").read_text()
    for line in (
        "run         whole",
        "checkpoint  whole/checkpoints/step-0000000020",
        "mlflow      experiment",
    ):
        assert line in out
    assert "launch plan" not in out, "its recipe is not here"
    for command in ("launch resume whole", "launch report whole"):
        assert command in out
    assert "step 20/20  loss" in out


def test_a_run_folder_holds_what_the_readme_says(folder: Path) -> None:
    names = {path.name for path in (folder / "whole").iterdir()}
    assert {"recipe.yaml", "recipe.source.yaml", "plan.json", "base_shapes.bsh", "job.sh", "environment.json",
            "journal.jsonl", "mlflow.json", "checkpoints", "logs", "code.diff"} <= names  # fmt: skip
    manifest = json.loads((folder / "whole/checkpoints/step-0000000020/manifest.json").read_text())
    for key in ("format", "step", "tokens", "attempt", "engine", "world_size", "recipe", "base_shapes",
                "base_shapes_hash", "parameters", "data", "random", "schedule", "files"):  # fmt: skip
        assert key in manifest
    assert manifest["data_step"] == 20
    record = step_records(folder / "whole/journal.jsonl")[20]
    assert {"step", "loss", "lr", "grad_norm"} <= record.keys()


def test_a_killed_run_resumes_bit_for_bit_and_passes_over_a_half_written_checkpoint(folder: Path) -> None:
    saved = folder / "killed/checkpoints/step-0000000010/manifest.json"
    launch_and_kill(*OPTIONS, "--run-dir", "killed", folder=folder, when=saved)
    # As if it had died while it saved the last checkpoint, however far it came.
    shutil.rmtree(folder / "killed/checkpoints/step-0000000020", ignore_errors=True)
    shutil.copytree(saved.parent, folder / "killed/checkpoints/step-0000000020")
    (folder / "killed/checkpoints/step-0000000020/manifest.json").unlink()
    # The ranks die with their agent, so the run is free; were they alive, the lock would refuse this.
    done = launch("resume", "killed", folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passing over" in done.stdout
    assert "resuming from step 10" in done.stdout
    whole, killed = (step_records(folder / run / "journal.jsonl") for run in ("whole", "killed"))
    assert [killed[s]["loss"] for s in whole] == [whole[s]["loss"] for s in whole]
    assert [killed[s]["grad_norm"] for s in whole] == [whole[s]["grad_norm"] for s in whole]
    assert killed[20]["attempt"] == 2


def test_a_complete_run_says_so(folder: Path) -> None:
    done = launch("resume", "whole", folder=folder)
    assert done.returncode == 0
    assert "is complete: step 20 of 20" in done.stdout


def test_a_damaged_last_checkpoint_is_not_complete(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(folder / "whole", folder / "bent")
    shard = next((folder / "bent/checkpoints/step-0000000020").glob("*.distcp"))
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    monkeypatch.setattr(submit, "freeze_and_submit", lambda *_, **__: 0)
    assert main(["resume", str(folder / "bent")]) == 0
    out = capsys.readouterr().out
    assert "has digest" in out
    assert "resuming from step 10 of 20" in out


def test_a_run_folder_is_never_started_over(folder: Path) -> None:
    before = (folder / "whole/journal.jsonl").read_bytes()
    done = launch(*OPTIONS, "--run-dir", "whole", folder=folder)
    assert_one_screen(done, "already contains a run", "launch resume")
    assert (folder / "whole/journal.jsonl").read_bytes() == before


def test_a_second_process_on_a_run_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both where it is asked for, and where the rank itself is started, as by a second job."""
    for verb in ("resume", "rank"):
        monkeypatch.setattr(f"launcher.cli.{verb}.LOCK_WAIT_S", 0.2)
    with open(folder / "whole/lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for done in (
            launch("resume", "whole", "train.steps=40", folder=folder),
            launch_rank("whole", folder=folder),
        ):
            assert_one_screen(done, "is being trained by process")


def test_other_base_shapes_are_refused_with_the_difference(folder: Path) -> None:
    before = sorted(path.name for path in (folder / "whole").rglob("*"))
    recipe = (folder / "whole/recipe.yaml").read_bytes()
    done = launch("resume", "whole", "mup.base_width=4", "train.steps=40", folder=folder)
    assert_one_screen(
        done, "other base shapes", "embedding.weight: (finite, 8) in the checkpoint, (finite, 4)"
    )
    assert sorted(path.name for path in (folder / "whole").rglob("*")) == before
    assert (folder / "whole/recipe.yaml").read_bytes() == recipe


@pytest.mark.parametrize(
    ("override", "fragment"),
    [
        ("model.vocab_size=300", "readout.weight: (256, 16) saved, (300, 16) now"),
        ("data.seq_len=64", "seq_len: 32 saved, 64 now"),
        ("data.validation_fraction=0.1", "data.validation_fraction: 0.05 saved, 0.1 now"),
        ("train.truncated_bptt=true", "truncated_bptt: False saved, True now"),
    ],
)
def test_another_model_and_other_data_are_refused_before_the_run_is_touched(
    folder: Path, override: str, fragment: str
) -> None:
    recipe = (folder / "whole/recipe.yaml").read_bytes()
    assert_one_screen(launch("resume", "whole", override, "train.steps=40", folder=folder), fragment)
    assert (folder / "whole/recipe.yaml").read_bytes() == recipe, "else every later resume is refused as well"
