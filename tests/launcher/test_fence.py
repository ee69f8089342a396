"""A run belongs to the attempt that began last; any other one ends before it writes."""

import errno
import fcntl
import json
import os
import time
from pathlib import Path

import pytest

from launcher import files
from launcher.checkpoint.catalog import list_steps
from launcher.errors import UserError
from launcher.fence import LEASE_S, OWNER, Fence, is_anothers, living_owner, read_owner
from launcher.run_folder import claim, lock_holder, lock_run, require_new, unclaim
from launcher.track.journal import Journal, read_journal
from launcher.world import World, seed_step
from tests.ranks import run_ranks
from tests.small_run import losses, make_run, small_recipe, train_rank, train_run


def test_the_attempt_that_began_last_has_the_run(tmp_path: Path) -> None:
    first = Fence(str(tmp_path), 1)
    first.check()
    second = Fence(str(tmp_path), 2)
    with pytest.raises(UserError, match="was taken over by attempt 2 on .*: this attempt has ended"):
        first.check()
    second.check()
    (tmp_path / OWNER).unlink()
    second.check()
    (tmp_path / OWNER).write_text("not json")
    second.check()


def test_remote_runs_are_fenced_too(tmp_path: Path) -> None:
    url = f"memory://{tmp_path.name}"
    first, second = Fence(url, 1), Fence(url, 2)
    second.check()
    first.glance()  # not at each line of the journal
    with pytest.raises(UserError, match="was taken over by attempt 2"):
        first.check()


def test_the_owner_of_a_remote_run_lives_until_its_end_or_the_end_of_its_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"memory://{tmp_path.name}"
    assert living_owner(url) is None
    fence = Fence(url, 1)
    assert str(living_owner(url)).startswith(f"process {os.getpid()} on ")
    assert lock_holder(url) == living_owner(url)
    with pytest.raises(UserError, match="is being trained by process"):
        lock_run(url)
    fence.release()
    assert living_owner(url) is None
    assert lock_run(url) is None
    fence.renew()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + LEASE_S + 1.0)
    assert living_owner(url) is None, "it has said nothing for too long"
    monkeypatch.setattr(time, "time", lambda: now)
    assert living_owner(url) is not None
    newer = Fence(url, 2)
    fence.release()
    assert living_owner(url) is not None, "it is not the older one's to end"
    newer.release()


def test_a_process_that_is_gone_or_was_of_the_same_job_does_not_live(tmp_path: Path) -> None:
    url = f"memory://{tmp_path.name}"
    Fence(url, 1, "17")
    assert living_owner(url, "17") is None
    assert living_owner(url, "18") is not None
    assert living_owner(url) is not None
    owner = files.read_record(f"{url}/{OWNER}")
    files.write_text(f"{url}/{OWNER}", json.dumps(owner | {"process": 1 << 30}))
    assert living_owner(url) is None


def test_a_remote_folder_is_claimed_once(tmp_path: Path) -> None:
    url = f"memory://{tmp_path.name}/run"
    assert [claim(url), claim(url)] == [True, False]
    with pytest.raises(UserError, match="is being started by another launch"):
        require_new(url)
    unclaim(url)
    require_new(url)


def test_a_fenced_journal_writes_nothing_more(tmp_path: Path) -> None:
    old = Journal(tmp_path / "journal.jsonl", 1, Fence(str(tmp_path), 1).check)
    old.write("step", {"step": 1})
    new = Journal(tmp_path / "journal.jsonl", 2, Fence(str(tmp_path), 2).check)
    with pytest.raises(UserError, match="taken over"):
        old.write("step", {"step": 2})
    new.write("step", {"step": 2})
    assert [record["attempt"] for record in read_journal(tmp_path / "journal.jsonl")] == [1, 2]


def train_until_taken_over(world: World, run_url: str) -> str:
    """Another attempt begins while this one is in step 15."""

    def seed(seed_: int, step: int, rank: int) -> None:
        if step == 14 and world.is_main:
            Fence(run_url, 2)
        seed_step(seed_, step, rank)

    patch = pytest.MonkeyPatch()
    patch.setattr("launcher.train.seed_step", seed)
    with pytest.raises(UserError) as caught:
        train_rank(world, small_recipe("checkpoint.every=2"), run_url)
    return str(caught.value)


def test_an_attempt_that_comes_back_after_another_began_ends_before_it_writes(tmp_path: Path) -> None:
    run = tmp_path / "run"
    make_run(run, small_recipe("checkpoint.every=2"))
    (said,) = run_ranks(1, train_until_taken_over, str(run))
    assert "was taken over by attempt 2" in said
    lines = read_journal(run / "journal.jsonl")
    assert max(line["step"] for line in lines if line["event"] == "step") == 14
    assert "end" not in [line["event"] for line in lines], "it is the other one's to write"
    assert max(list_steps(str(run))) == 14
    # the other one continues as if nothing had been
    assert losses(train_run(run, "checkpoint.every=2")) == losses(train_run(tmp_path / "whole"))


def test_an_agent_knows_whether_its_own_rank_has_the_run(tmp_path: Path) -> None:
    assert not is_anothers(str(tmp_path))
    Fence(str(tmp_path), 1)
    owner = read_owner(str(tmp_path))
    assert owner is not None
    assert owner["agent"] == os.getppid()
    assert is_anothers(str(tmp_path)), "it is this process's parent's"


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK])
def test_a_file_system_may_have_no_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def flock(_stream: object, _operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    stream = lock_run(str(tmp_path))
    assert stream is not None
    stream.close()
