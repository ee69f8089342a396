"""Saves beside training, and storage that refuses them."""

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from launcher import files
from launcher.checkpoint.catalog import Saved, list_steps, read_checkpoint, step_folder, verify_digests
from launcher.checkpoint.checkpointer import Checkpointer
from launcher.ending import StorageError
from launcher.progress import Progress
from launcher.world import World
from tests.launcher.checkpoint.savers import ALONE, open_saver
from tests.ranks import run_ranks

WRITERS = ("write_bytes", "remove")


def start(saver: Checkpointer, step: int, value: float = 1.0) -> torch.Tensor:
    """Begin to save a tensor; returns the tensor."""
    tensor = torch.full((1000,), value)
    saver.save(Progress(step, step), {"a": tensor}, {}, wait=False)
    return tensor


def held(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Until it is set, no manifest is written."""
    go, true = threading.Event(), files.write_bytes

    def write(url: str, content: bytes) -> None:
        assert go.wait(60)
        true(url, content)

    monkeypatch.setattr(files, "write_bytes", write)
    return go


def refuse(
    monkeypatch: pytest.MonkeyPatch, error: OSError, when: Callable[[str], bool] = lambda url: True
) -> None:
    """Let storage refuse every manifest for whose URL this holds."""
    true = files.write_bytes

    def write(url: str, content: bytes) -> None:
        if when(url):
            raise error
        true(url, content)

    monkeypatch.setattr(files, "write_bytes", write)


def saved(run: Path, step: int) -> Saved:
    found = read_checkpoint(step_folder(str(run), step))
    assert isinstance(found, Saved)
    assert verify_digests(found) is None
    return found


def test_training_continues_while_a_checkpoint_is_written_and_what_it_changes_is_not_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, saver = held(monkeypatch), open_saver(str(tmp_path))
    start(saver, 1, value=1.0).fill_(7.0)
    assert saver.outcomes() == []
    assert not isinstance(read_checkpoint(step_folder(str(tmp_path), 1)), Saved)
    go.set()
    saver.finish()
    (outcome,) = saver.outcomes()
    assert (outcome.step, outcome.url) == (1, step_folder(str(tmp_path), 1))
    assert saver.outcomes() == [], "each is told once"
    saved(tmp_path, 1)
    from launcher.checkpoint.storage import read_tensors

    read_tensors(outcome.url, {"a": (found := torch.zeros(1000))})
    assert found.eq(1.0).all()


def test_a_save_waits_for_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go, saver = held(monkeypatch), open_saver(str(tmp_path))
    start(saver, 1)
    threading.Timer(0.3, go.set).start()
    start(saver, 2)
    assert isinstance(read_checkpoint(step_folder(str(tmp_path), 1)), Saved)
    saver.finish()
    assert [outcome.step for outcome in saver.outcomes()] == [1, 2]


@pytest.mark.parametrize("number", ["ENOSPC", "EDQUOT", "EIO", "EROFS", "EPERM", "EACCES", "ETIMEDOUT"])
def test_a_save_that_storage_refuses_leaves_nothing_and_the_next_one_tries_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: str
) -> None:
    saver, error = open_saver(str(tmp_path)), getattr(errno, number)
    start(saver, 1)
    saver.finish()
    with monkeypatch.context() as patch:
        refuse(patch, OSError(error, os.strerror(error), "/disk/file"))
        start(saver, 2)
        saver.finish()
    outcomes = saver.outcomes()
    assert [outcome.url is None for outcome in outcomes] == [False, True]
    assert outcomes[1].reason == f"{os.strerror(error)}: /disk/file"
    assert list_steps(str(tmp_path)) == [1], "nothing is left of the second"
    start(saver, 3)
    saver.finish()
    assert saver.outcomes()[0].url is not None
    assert saver.newest_url == step_folder(str(tmp_path), 3)


def test_too_many_failed_saves_in_a_row_end_the_run_and_the_newest_good_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saver = open_saver(str(tmp_path), max_failures=2)
    start(saver, 1)
    saver.finish()
    refuse(monkeypatch, OSError(errno.ENOSPC, "No space left on device"))
    for step in (2, 3, 4):
        start(saver, step)
    with pytest.raises(StorageError, match="3 saves in a row have failed, the last one: No space left"):
        start(saver, 5)
    saved(tmp_path, 1)


def test_the_save_that_ends_a_run_must_not_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch, OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(StorageError, match="step 1 could not be saved: No space left on device"):
        open_saver(str(tmp_path)).save(Progress(1, 1), {"a": torch.ones(3)}, {}, wait=True)


def test_a_mistake_of_ours_is_not_taken_for_the_storages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(url: str, content: bytes) -> None:
        raise TypeError("a bug")

    monkeypatch.setattr(files, "write_bytes", write)
    saver = open_saver(str(tmp_path))
    start(saver, 1)
    with pytest.raises(TypeError, match="a bug"):
        saver.finish()


def test_old_checkpoints_that_cannot_be_deleted_do_not_undo_a_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saver = open_saver(str(tmp_path), keep=1)
    start(saver, 1)
    saver.finish()

    def remove(url: str) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(files, "remove", remove)
    start(saver, 2)
    saver.finish()
    last = saver.outcomes()[-1]
    assert last.url is not None
    assert last.reason == "Operation not permitted"
    saved(tmp_path, 2)


def test_every_nth_checkpoint_is_kept_beside_the_newest(tmp_path: Path) -> None:
    saver = open_saver(str(tmp_path), keep=2, keep_every=4)
    for step in range(1, 11):
        start(saver, step)
    saver.finish()
    assert list_steps(str(tmp_path)) == [4, 8, 9, 10]


def fill_one_disk(world: World, run_url: str) -> tuple[list[str], bool, str]:
    """Rank 1 has no space for its second save; rank 0 cannot write its fourth manifest."""
    from launcher.checkpoint import storage

    saver = open_saver(run_url, world, max_failures=9)
    true_write, true_open = files.write_bytes, storage.FsspecWriter.write_data
    for step in range(1, 6):

        def write(url: str, content: bytes, step: int = step) -> None:
            if step == 4:
                raise OSError(errno.EIO, "Input/output error")
            true_write(url, content)

        def write_data(self: object, *args: object, step: int = step) -> object:
            if step == 2 and world.rank == 1:
                raise OSError(errno.ENOSPC, "No space left on device")
            return true_open(self, *args)

        files.write_bytes = write  # in this rank's own process
        storage.FsspecWriter.write_data = write_data
        rows = torch.arange(4.0) + world.rank
        saver.save(Progress(step, step), {f"a{world.rank}": rows, "b": torch.ones(3)}, {}, wait=False)
        saver.finish()
    reasons = [outcome.reason for outcome in saver.outcomes()]
    return reasons, saver.newest_url == step_folder(run_url, 5), str(list_steps(run_url))


def test_all_ranks_agree_on_what_storage_refuses_to_one(tmp_path: Path) -> None:
    told = run_ranks(2, fill_one_disk, str(tmp_path))
    assert told[0] == told[1]
    reasons, is_newest, steps = told[0]
    assert [bool(reason) for reason in reasons] == [False, True, False, True, False]
    assert "No space left on device" in reasons[1]
    assert reasons[3] == "Input/output error (rank 0)"
    assert (is_newest, steps) == (True, "[1, 3, 5]")


def damage_and_restore(world: World, run_url: str) -> list[str]:
    saver = open_saver(run_url, world)
    for step in (1, 2):
        saver.save(Progress(step, step), {f"a{world.rank}": torch.ones(9), "b": torch.ones(3)}, {}, wait=True)
    world.barrier()
    if world.is_main:
        shard = Path(step_folder(run_url, 2)) / "__1_0.distcp"
        content = bytearray(shard.read_bytes())
        content[len(content) // 2] ^= 1
        shard.write_bytes(content)
    world.barrier()
    found, rejected = saver._newest()
    assert found is not None
    return [str(found.step), *(bad.reason for bad in rejected)]


def test_the_ranks_share_the_reading_and_agree_on_what_is_damaged(tmp_path: Path) -> None:
    told = run_ranks(2, damage_and_restore, str(tmp_path))
    assert told[0] == told[1]
    step, reason = told[0]
    assert step == "1"
    assert "__1_0.distcp has digest" in reason


def test_one_process_has_no_group_of_its_own() -> None:
    assert ALONE.beside() is ALONE
