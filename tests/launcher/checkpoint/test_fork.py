"""A new run that starts with another one's weights: explicit, checked, and written down."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch

from launcher.checkpoint.catalog import Saved, read_checkpoint, step_folder
from launcher.checkpoint.restore import load_model
from launcher.errors import UserError
from tests.launch import assert_one_screen, launch
from tests.small_run import RECIPE, losses, train_run


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fork") / "parent"
    train_run(folder, "model.dropout=0")
    return folder


def saved(run: Path, step: int) -> Saved:
    found = read_checkpoint(step_folder(str(run), step))
    assert isinstance(found, Saved)
    return found


def fork(run: Path, parent: Path, *overrides: str, ranks: int = 1) -> dict[int, dict[str, Any]]:
    source = f"train.init_from={step_folder(str(parent), 20)}"
    return train_run(run, "model.dropout=0", source, *overrides, ranks=ranks)


def test_a_fork_starts_with_the_weights_and_with_nothing_else(parent: Path, tmp_path: Path) -> None:
    still = fork(tmp_path / "still", parent, "optim.lr=1e-12", "train.steps=6", "checkpoint.every=3")
    theirs = load_model(saved(parent, 20), torch.device("cpu")).state_dict()
    ours = load_model(saved(tmp_path / "still", 6), torch.device("cpu")).state_dict()
    for name, value in theirs.items():
        assert torch.allclose(ours[name], value, rtol=1e-6, atol=1e-9), name
    assert sorted(still) == [1, 2, 3, 4, 5, 6]
    begun = train_run(tmp_path / "new", "model.dropout=0", "train.steps=6")
    assert still[1]["loss"] < 0.9 * begun[1]["loss"]


def test_every_engine_starts_a_fork_alike(parent: Path, tmp_path: Path) -> None:
    alone = losses(fork(tmp_path / "alone", parent, "train.steps=5", "schedule={type: constant}"))
    for number, engine in enumerate(
        ("parallel={engine: torch, strategy: fsdp2}", "parallel={engine: deepspeed, zero_stage: 3}")
    ):
        found = fork(
            tmp_path / str(number), parent, "train.steps=5", "schedule={type: constant}", engine, ranks=2
        )
        assert losses(found) == pytest.approx(alone, rel=1e-5), engine


def test_the_lineage_is_in_every_manifest_also_after_a_resume(parent: Path, tmp_path: Path) -> None:
    run = tmp_path / "fork"
    fork(run, parent, "train.steps=6", "checkpoint.every=3")
    fork(run, parent, "train.steps=9", "checkpoint.every=3")
    manifest = Path(step_folder(str(parent), 20)) / "manifest.json"
    for step in (3, 6, 9):
        lineage = saved(run, step).manifest.lineage
        assert lineage is not None
        assert (lineage.url, lineage.step) == (step_folder(str(parent), 20), 20)
        assert lineage.tokens == saved(parent, 20).manifest.tokens
        assert lineage.manifest_sha256 == hashlib.sha256(manifest.read_bytes()).hexdigest()
    assert saved(parent, 20).manifest.lineage is None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.d_model=32", "was trained with other base shapes|has shape|forward"),
        ("mup.base_width=4", "was trained with other base shapes"),
        ("mup={type: sp}", "was trained (with other base shapes|as another parametrisation)"),
        ("mup.multipliers.ssm=2", "mup.multipliers.ssm: 1.0 saved, 2.0 now"),
        ("model.num_layers=4", "is in the checkpoint|is not in|other base shapes"),
    ],
)
def test_weights_that_would_mean_something_else_are_refused(
    parent: Path, tmp_path: Path, override: str, message: str
) -> None:
    with pytest.raises((UserError, AssertionError), match=message):
        fork(tmp_path / "fork", parent, override)


def test_the_command_forks_a_run_and_refuses_before_it_writes_anything(parent: Path, tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(RECIPE)
    words = ("small.yaml", "--init-from", str(parent), "--run-dir", "fork", "train.steps=6")
    done = launch(*words, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"starts from step 0 with the weights of {step_folder(str(parent), 20)}" in done.stdout
    shown = launch("inspect", "fork", folder=tmp_path).stdout
    assert "forked from" in shown
    refused = launch(*words[:4], "other", "mup.base_width=4", folder=tmp_path)
    assert_one_screen(refused, "train.init_from", "other base shapes")
    assert not (tmp_path / "other").exists()
    assert_one_screen(launch("small.yaml", "--init-from", "nothing", folder=tmp_path), "nothing: is neither")


def test_a_damaged_source_is_refused(parent: Path, tmp_path: Path) -> None:
    train_run(tmp_path / "bad", "model.dropout=0")
    shard = next((tmp_path / "bad/checkpoints/step-0000000020").glob("*.distcp"))
    content = bytearray(shard.read_bytes())
    content[-100] ^= 1
    shard.write_bytes(content)
    with pytest.raises(AssertionError, match="has digest"):
        fork(tmp_path / "fork", tmp_path / "bad")
    assert not (tmp_path / "fork/checkpoints").exists()
