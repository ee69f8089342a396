"""A resume changes nothing until it is accepted, guesses nothing, and says what will not be as before."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from launcher.checkpoint.catalog import step_folder
from launcher.track.journal import read_journal, step_records
from tests.launch import assert_one_screen, launch, launch_rank
from tests.small_run import RECIPE

TOKENS = RECIPE.replace(
    "source: {type: python-stdlib}", "source: {type: tokens, train: A.bin, validation: H.bin}"
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with token files and a run of six steps."""
    folder = tmp_path_factory.mktemp("resume")
    generator = np.random.default_rng(0)
    for name, count in (("A.bin", 5000), ("B.bin", 5000), ("H.bin", 600)):
        generator.integers(0, 200, count).astype("<u2").tofile(folder / name)
    (folder / "tokens.yaml").write_text(TOKENS)
    done = launch("tokens.yaml", "train.steps=6", "checkpoint.every=2", "--run-dir", "run", folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "schedule.extend=hold keeps the last one" in done.stdout, (
        "what twice the steps would do to the rate"
    )
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of it, moved: the run's first folder is still `made`, where the data is."""
    shutil.copytree(made / "run", tmp_path / "run")
    return tmp_path


def submitted(run: Path) -> dict[str, bytes]:
    return {name: (run / name).read_bytes() for name in ("recipe.yaml", "plan.json", "job.sh")}


def test_a_resume_that_the_ranks_refuse_leaves_the_run_as_it_was(folder: Path) -> None:
    before = submitted(folder / "run")
    done = launch("resume", "run", "train.steps=8", "data.source.train=B.bin", folder=folder)
    assert_one_screen(done, "fingerprint")
    assert submitted(folder / "run") == before
    done = launch("resume", "run", "train.steps=8", folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "steps: 8" in (folder / "run/recipe.yaml").read_text()
    assert sorted(step_records(folder / "run/journal.jsonl")) == list(range(1, 9))
    kept = sorted((folder / "run/attempts").iterdir())
    assert ["train: B.bin" in (path / "recipe.yaml").read_text() for path in kept] == [True, False]
    assert f"--submission attempts/{kept[1].name}" in (folder / "run/job.sh").read_text()


@pytest.mark.parametrize("key", ["mup.multipliers.residual", "mup.init_scale", "optim.rates.readout"])
def test_a_resume_with_another_factor_is_refused_by_name(folder: Path, key: str) -> None:
    before = submitted(folder / "run")
    done = launch("resume", "run", "train.steps=8", f"{key}=2", folder=folder)
    assert_one_screen(done, f"{key}: 1.0 saved, 2.0 now")
    assert submitted(folder / "run") == before


def test_data_are_those_of_the_runs_first_folder(folder: Path) -> None:
    (folder / "A.bin").write_bytes(b"\x07\x00" * 5000)  # not the run's
    done = launch("resume", "run", "train.steps=8", folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr


def damage(run: Path) -> None:
    for shard in run.glob("checkpoints/*/*.distcp"):
        content = bytearray(shard.read_bytes())
        content[-1] ^= 1
        shard.write_bytes(content)


@pytest.mark.parametrize("how", ["damaged", "deleted"])
def test_a_run_whose_checkpoints_are_gone_is_not_started_over(made: Path, folder: Path, how: str) -> None:
    run = folder / "run"
    damage(run) if how == "damaged" else shutil.rmtree(run / "checkpoints")
    before = submitted(run)
    resumed = launch("resume", "run", "train.steps=8", folder=folder)
    for done in (resumed, launch_rank(str(run), folder=made)):
        assert_one_screen(done, "step 6 was saved, and no good checkpoint is left", "--fresh")
    assert submitted(run) == before
    assert not (run / "quarantine").exists()


def test_fresh_starts_over_in_a_new_folder(folder: Path) -> None:
    shutil.rmtree(folder / "run/checkpoints")
    done = launch("resume", "run", "--fresh", "--run-dir", "new", folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    whole, again = (step_records(folder / name / "journal.jsonl") for name in ("run", "new"))
    assert [again[step]["loss"] for step in whole] == [whole[step]["loss"] for step in whole]


def test_another_optimizer_is_refused(folder: Path) -> None:
    done = launch("resume", "run", "train.steps=8", "optim={type: lion, lr: 1e-3}", folder=folder)
    assert_one_screen(done, "optim.type: is lion, but", "was trained with adamw")


def test_a_longer_run_says_what_happens_to_the_rate_and_can_hold_it(folder: Path) -> None:
    done = launch("resume", "run", "train.steps=12", "schedule.extend=hold", folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the rate is" not in done.stdout.split("run         ")[0]
    rates = [record["lr"] for _, record in sorted(step_records(folder / "run/journal.jsonl").items())]
    assert rates[6:] == [rates[5]] * 6
    # A second extension holds the same rate, from the checkpoint's own account of the first run's length.
    done = launch("resume", "run", "train.steps=14", folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    rates = [record["lr"] for _, record in sorted(step_records(folder / "run/journal.jsonl").items())]
    assert rates[6:] == [rates[5]] * 8


def test_a_longer_run_that_is_rescaled_names_both_rates(folder: Path) -> None:
    done = launch("resume", "run", "train.steps=12", folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    rates = {step: record["lr"] for step, record in step_records(folder / "run/journal.jsonl").items()}
    said = f"the rate is {rates[6]:.2e} at step 6 and {rates[7]:.2e} at step 7, of 12"
    assert said in done.stdout
    assert rates[7] > 2 * rates[6]


def test_what_the_last_digits_depend_on_is_compared(folder: Path) -> None:
    journal = folder / "run/journal.jsonl"
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    lines[0]["made_with"]["torch"] = "1.0"
    del lines[0]["crc"]
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = launch("resume", "run", "train.steps=7", folder=folder)
    assert "(torch 1.0 then, " in done.stdout
    assert "equal to the last digit only up to here" in done.stdout
    assert len([r for r in read_journal(journal) if r["event"] == "start"]) == 2


def test_a_run_dir_without_fresh_is_refused(folder: Path) -> None:
    done = launch("resume", "run", "--run-dir", "other", folder=folder)
    assert done.returncode == 2
    assert "--run-dir is for --fresh" in done.stderr
    assert step_folder("run", 6)
