"""Publishing, replacing and retiring checkpoints."""

import time
from pathlib import Path

import pytest
import torch

from launcher import files
from launcher.checkpoint.catalog import Saved, delete_old, list_steps, read_checkpoint, step_folder
from launcher.checkpoint.config import CheckpointConfig
from launcher.checkpoint.manifest import MANIFEST
from launcher.world import World
from tests.launcher.checkpoint import savers
from tests.ranks import run_ranks


def save(run: Path, step: int, value: float = 1.0, loss: float | None = None) -> str:
    return savers.save(str(run), step, {"a": torch.full((3,), value)}, loss=loss)


def test_the_manifest_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(url: str, content: bytes) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "write_bytes", die)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, 1)
    assert list(Path(step_folder(str(tmp_path), 1)).glob("*.distcp")), "the shards were there before"
    assert not isinstance(read_checkpoint(step_folder(str(tmp_path), 1)), Saved)


def save_slowly(world: World, run_url: str) -> bool:
    """Whether a rank that has saved sees the manifest, which rank 0 is slow to write."""
    true = files.write_bytes

    def write(url: str, content: bytes) -> None:
        time.sleep(0.5)
        true(url, content)

    files.write_bytes = write  # in this rank's own process
    return isinstance(read_checkpoint(savers.save(run_url, 1, {"a": torch.ones(3)}, world)), Saved)


def test_no_rank_continues_before_the_manifest_is_there(tmp_path: Path) -> None:
    assert run_ranks(2, save_slowly, str(tmp_path)) == [True, True]


def test_a_save_over_an_unfinished_one_starts_clean(tmp_path: Path) -> None:
    folder = Path(step_folder(str(tmp_path), 1))
    folder.mkdir(parents=True)
    (folder / "__9_0.distcp").write_bytes(b"left behind")
    save(tmp_path, 1)
    saved = read_checkpoint(str(folder))
    assert isinstance(saved, Saved)
    assert not (folder / "__9_0.distcp").exists()


def test_a_published_checkpoint_is_never_overwritten(tmp_path: Path) -> None:
    save(tmp_path, 1, value=1.0)
    save(tmp_path, 1, value=2.0)
    assert isinstance(read_checkpoint(str(tmp_path / "quarantine/step-0000000001.1")), Saved)
    save(tmp_path, 1, value=3.0)
    assert (tmp_path / "quarantine/step-0000000001.2").is_dir()


def test_checkpoints_of_a_newer_format_are_not_deleted(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        save(tmp_path, step)
    newer = Path(step_folder(str(tmp_path), 1)) / MANIFEST
    newer.write_text('{"format": 99}')
    assert delete_old(str(tmp_path), CheckpointConfig(every=1, keep=2), {}) == [2]
    assert list_steps(str(tmp_path)) == [1, 3, 4]
    save(tmp_path, 1)
    assert (tmp_path / "quarantine/step-0000000001.1" / MANIFEST).read_text() == '{"format": 99}'


def test_retention_counts_complete_checkpoints_only(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        save(tmp_path, step)
    (Path(step_folder(str(tmp_path), 4)) / MANIFEST).unlink()
    assert delete_old(str(tmp_path), CheckpointConfig(every=1, keep=2), {}) == [1]
    assert list_steps(str(tmp_path)) == [2, 3, 4], "the unfinished newest one is not ours to delete"


def test_the_last_complete_checkpoint_is_never_deleted(tmp_path: Path) -> None:
    save(tmp_path, 1)
    assert delete_old(str(tmp_path), CheckpointConfig(every=1, keep=1), {}) == []
    assert list_steps(str(tmp_path)) == [1]


def test_the_checkpoint_with_the_lowest_validation_loss_is_kept(tmp_path: Path) -> None:
    losses = {1: 3.0, 2: 1.5, 3: 2.0, 4: 1.5, 5: 2.5, 6: 9.0, 7: None}
    for step, loss in losses.items():
        save(tmp_path, step, loss=loss)
    assert delete_old(str(tmp_path), CheckpointConfig(every=1, keep=2, keep_best=True), {}) == [1, 2, 3, 5]
    assert list_steps(str(tmp_path)) == [4, 6, 7], "of equals the newer one"
