"""The loop: golden losses, the same losses at every world size, resume equals uninterrupted."""

import json
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from launcher import files
from launcher.checkpoint.catalog import Saved, list_steps, read_checkpoint, step_folder
from launcher.checkpoint.checkpointer import Checkpointer
from launcher.checkpoint.manifest import manifest_text
from launcher.clock import Clock
from launcher.data.batches import Batches
from launcher.errors import Problem, UserError
from launcher.guard.stop import StopRequests
from launcher.parallel.torch_engine import TorchEngine
from launcher.run_folder import LocalMirror
from launcher.track.journal import read_journal
from launcher.train import train
from launcher.world import World, seed_step
from tests.launch import launch_rank
from tests.launcher.checkpoint.savers import ALONE
from tests.ranks import run_ranks
from tests.small_run import losses, make_run, small_recipe, train_rank, train_run

GOLDEN = Path(__file__).parents[1] / "golden" / "small-losses.json"
# 20 steps of float32 whose sums may be taken in another order: by another number of ranks, or on a machine
# with other vector instructions. A difference of one unit (6e-8) grows by the steps, not by the ranks.
RELATIVE = 1e-5


def test_losses_of_the_small_recipe_are_golden(tmp_path: Path, update_golden: bool) -> None:
    # a text of its own: that of the standard library differs between versions of Python
    text = "".join(f"{number} times {number} is {number**2}\n" for number in range(2000)).encode()
    for name, part in (("train", text[:30_000]), ("validation", text[30_000:])):
        (tmp_path / name).write_bytes(part)
    source = {"type": "tokens", "train": "train", "validation": "validation", "dtype": "uint8"}
    source |= {name: str(tmp_path / name) for name in ("train", "validation")}
    found = losses(train_run(tmp_path / "run", f"data={json.dumps({'source': source, 'seq_len': 32})}"))
    if update_golden:
        GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
    assert found == pytest.approx(json.loads(GOLDEN.read_text()), rel=RELATIVE)


def test_the_loss_falls(tmp_path: Path) -> None:
    found = losses(train_run(tmp_path / "run", "train.steps=40", "model.dropout=0"))
    assert found[0] == pytest.approx(5.545, abs=0.01), "a zero readout starts at ln 256"
    assert found[-1] < 4.0


# Dropout masks differ between ranks, by design; everything else may not.
@pytest.mark.parametrize(("strategy", "ranks"), [("ddp", 2), ("fsdp2", 2), ("fsdp2", 1), ("hsdp", 2)])
def test_every_sharding_gives_the_losses_of_one_process(tmp_path: Path, strategy: str, ranks: int) -> None:
    alone = train_run(tmp_path / "one", "model.dropout=0")
    spread = train_run(tmp_path / "many", "model.dropout=0", f"parallel.strategy={strategy}", ranks=ranks)
    assert losses(spread) == pytest.approx(losses(alone), rel=RELATIVE)
    for step, record in alone.items():
        assert spread[step]["grad_norm"] == pytest.approx(record["grad_norm"], rel=1e-4), step
        assert spread[step]["lr"] == record["lr"]


@pytest.mark.parametrize(
    ("strategy", "ranks", "more"),
    [("single", 1, ()), ("fsdp2", 2, ()), ("fsdp2", 2, ("train.truncated_bptt=true",))],
    ids=["single", "fsdp2x2", "fsdp2x2-streams"],
)
def test_resume_equals_uninterrupted_bit_for_bit(
    tmp_path: Path, strategy: str, ranks: int, more: tuple[str, ...]
) -> None:
    options = (f"parallel.strategy={strategy}", *more)
    whole = train_run(tmp_path / "whole", *options, ranks=ranks)
    train_run(tmp_path / "cut", *options, ranks=ranks)
    shutil.rmtree(step_folder(str(tmp_path / "cut"), 20))  # as if it had died after step 10's checkpoint
    resumed = train_run(tmp_path / "cut", *options, ranks=ranks)
    assert [resumed[step]["attempt"] for step in (10, 11, 20)] == [1, 2, 2]
    exact = ("loss", "lr", "grad_norm", "clip_coefficient", "tokens")
    for step in whole:
        assert [resumed[step][key] for key in exact] == [whole[step][key] for key in exact], step
    evals = [[r["loss"] for r in read_journal(tmp_path / run / "journal.jsonl") if r["event"] == "validation"]
             for run in ("whole", "cut")]  # fmt: skip
    assert evals[0][-1] == evals[1][-1]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("train.truncated_bptt=true",), "truncated_bptt: False saved, True now"),
        (("seed=8",), "seed: 7 saved, 8 now"),
        (("data.seq_len=16",), "seq_len: 32 saved, 16 now"),
        (("train.global_batch_size=4",), "global_batch_size: 8 saved, 4 now"),
    ],
)
def test_a_run_does_not_continue_in_another_order(tmp_path: Path, change: tuple[str, ...], said: str) -> None:
    short = ("train.steps=2", "checkpoint.every=2", "schedule.warmup_steps=1")
    train_run(tmp_path, *short)
    with pytest.raises(AssertionError, match=f"was trained on other data or in another order:\n +{said}"):
        train_run(tmp_path, *short, *change)
    assert list_steps(str(tmp_path)) == [2]


def test_a_run_continues_at_another_world_size_with_the_same_samples(tmp_path: Path) -> None:
    options = ("model.dropout=0", "parallel.strategy=fsdp2")
    whole = train_run(tmp_path / "whole", *options, ranks=1)
    train_run(tmp_path / "moved", *options, ranks=2)
    shutil.rmtree(step_folder(str(tmp_path / "moved"), 20))
    moved = train_run(tmp_path / "moved", *options, ranks=1)
    assert losses(moved) == pytest.approx(losses(whole), rel=RELATIVE)


def test_a_damaged_checkpoint_is_passed_over_put_aside_and_reported(tmp_path: Path) -> None:
    whole = train_run(tmp_path / "whole")
    train_run(tmp_path / "bad")
    shard = next(Path(step_folder(str(tmp_path / "bad"), 20)).glob("*.distcp"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    redone = train_run(tmp_path / "bad")
    assert losses(redone) == losses(whole)
    rejected = [
        r for r in read_journal(tmp_path / "bad/journal.jsonl") if r["event"] == "checkpoint_rejected"
    ]
    assert len(rejected) == 1
    assert "digest" in rejected[0]["reason"]
    assert (tmp_path / "bad/quarantine/step-0000000020.1").is_dir()


def test_gradient_accumulation_changes_nothing_but_the_memory(tmp_path: Path) -> None:
    once = train_run(tmp_path / "once", "model.dropout=0", "train.micro_batch_size=8")
    often = train_run(tmp_path / "often", "model.dropout=0", "train.micro_batch_size=1")
    assert losses(often) == pytest.approx(losses(once), rel=RELATIVE)


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    train_run(tmp_path / "run", "checkpoint.every=4", "checkpoint.keep=2")
    assert list_steps(str(tmp_path / "run")) == [16, 20]


def test_bf16_follows_fp32(tmp_path: Path) -> None:
    exact = losses(train_run(tmp_path / "fp32", "model.dropout=0"))
    rough = losses(train_run(tmp_path / "bf16", "model.dropout=0", "parallel.precision=bf16"))
    # bfloat16 keeps 8 bits: each product is off by up to 2**-8; the loss, a mean of many, by less than that
    assert rough == pytest.approx(exact, rel=2**-7)
    assert rough != exact


def test_after_a_range_of_data_was_skipped_training_reads_what_comes_after_it(tmp_path: Path) -> None:
    """data_step, not step, says which samples and which dropout masks come next."""
    ahead = train_run(tmp_path / "ahead", "train.steps=13", "schedule={type: constant}", "checkpoint.every=1")
    train_run(tmp_path / "skips", "train.steps=13", "schedule={type: constant}", "checkpoint.every=1")
    folder = Path(step_folder(str(tmp_path / "skips"), 12))
    shutil.rmtree(step_folder(str(tmp_path / "skips"), 13))
    saved = read_checkpoint(str(folder))
    assert isinstance(saved, Saved)
    skipped = saved.manifest.model_copy(update={"step": 2, "data_step": 12})
    moved = Path(step_folder(str(tmp_path / "skips"), 2))
    folder.rename(moved)
    for other in (10, 11):
        shutil.rmtree(step_folder(str(tmp_path / "skips"), other), ignore_errors=True)
    (moved / "manifest.json").write_text(manifest_text(skipped))
    after = train_run(tmp_path / "skips", "train.steps=3", "schedule={type: constant}", "checkpoint.every=1")
    assert (after[3]["loss"], after[3]["grad_norm"]) == (ahead[13]["loss"], ahead[13]["grad_norm"])
    newest = read_checkpoint(step_folder(str(tmp_path / "skips"), 3))
    assert isinstance(newest, Saved)
    assert (newest.manifest.step, newest.manifest.data_step) == (3, 13)


def last_line(folder: Path) -> dict[str, Any]:
    return read_journal(folder / "journal.jsonl")[-1]


def test_a_world_that_is_not_the_plans_is_refused_before_anything_is_built(tmp_path: Path) -> None:
    run_url = make_run(tmp_path, small_recipe("cluster.nproc_per_node=2", "parallel.strategy=ddp"))
    done = launch_rank(run_url, folder=tmp_path)
    assert done.returncode == 2
    expected = (
        "launch: ranks: 1 started, but the plan is for 2 = cluster.nodes 1 x cluster.nproc_per_node 2; "
    )
    assert done.stderr.startswith(expected)
    assert done.stderr.count("\n") == 1
    assert (last_line(tmp_path)["status"], last_line(tmp_path)["class"]) == ("FAILED", "user error")
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize(
    ("noun", "error", "ending"),
    [
        ("make_plan", ValueError("plan"), "bug"),
        ("open_data", UserError(Problem("data", "is gone")), "user error"),
        ("open_engine", torch.OutOfMemoryError("8 GiB"), "out of memory"),
        ("seed_step", KeyboardInterrupt(), "stopped by user"),
    ],
)
def test_a_failure_anywhere_is_the_last_line_of_the_journal_and_leaves_no_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, noun: str, error: BaseException, ending: str
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(f"launcher.train.{noun}", fail)
    threads = threading.active_count()
    run_url = make_run(tmp_path, small_recipe())
    with pytest.raises(type(error)):
        train_rank(ALONE, small_recipe(), run_url)
    assert (last_line(tmp_path)["event"], last_line(tmp_path)["class"]) == ("end", ending)
    assert str(error) in last_line(tmp_path)["reason"]
    assert threading.active_count() == threads


def test_data_are_opened_before_the_model_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(*_: object) -> None:
        raise AssertionError("built a model for data that are not there")

    monkeypatch.setattr("launcher.train.open_engine", build)
    source = f"data.source={{type: files, url: {tmp_path}/none}}"
    with pytest.raises(UserError, match="there are no files here"):
        train_rank(ALONE, small_recipe(source), make_run(tmp_path / "run", small_recipe(source)))


def test_a_refused_resume_puts_no_damaged_checkpoint_aside(tmp_path: Path) -> None:
    short = ("train.steps=2", "checkpoint.every=1", "schedule.warmup_steps=1")
    train_run(tmp_path, *short)
    shard = next(Path(step_folder(str(tmp_path), 2)).glob("*.distcp"))
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(AssertionError, match="was trained on other data"):
        train_run(tmp_path, *short, "seed=8")
    assert list_steps(str(tmp_path)) == [1, 2]
    assert not (tmp_path / "quarantine").exists()


def test_a_plateau_counts_the_validation_of_a_last_step_that_was_due(tmp_path: Path) -> None:
    """Else a run that was finished and then made longer would have other rates than one that was not."""
    options = ("schedule={type: plateau, patience: 0, threshold: 0.9}", "train.validate_every=1")
    whole = train_run(tmp_path / "whole", *options, "train.steps=8")
    train_run(tmp_path / "cut", *options, "train.steps=4")
    longer = train_run(tmp_path / "cut", *options, "train.steps=8")
    assert [longer[step]["lr"] for step in longer] == [whole[step]["lr"] for step in whole]
    assert whole[8]["lr"] < whole[1]["lr"], "else nothing was reduced"


WAITING = "checkpoint.asynchronous=false"


def test_the_journal_of_a_remote_run_is_there_as_of_each_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_url = f"memory://{tmp_path.name}/run"
    seen = []

    def seed(_seed: int, step: int, _rank: int) -> None:
        journal = f"{run_url}/journal.jsonl"
        lines = files.read_text(journal).splitlines() if files.exists(journal) else []
        seen.append(max((json.loads(line).get("step", 0) for line in lines), default=0))

    monkeypatch.setattr("launcher.train.seed_step", seed)
    recipe = small_recipe("train.steps=6", "checkpoint.every=2", "schedule={type: constant}", WAITING)
    make_run(tmp_path, recipe)
    mirror = LocalMirror(tmp_path, run_url)
    train(recipe, run_url, ALONE, stop=StopRequests(), clock=Clock(), mirror=mirror, mlflow=None)
    assert seen == [0, 0, 2, 2, 4, 4]


def random_states(world: World, run_url: str) -> list[bytes]:
    """torch's random state at the start of each step of one rank."""
    seen = []

    def seed(*args: int) -> None:
        seed_step(*args)
        seen.append(torch.get_rng_state().numpy().tobytes())

    patch = pytest.MonkeyPatch()
    patch.setattr("launcher.train.seed_step", seed)
    recipe = small_recipe("train.steps=5", "parallel.strategy=ddp", f"cluster.nproc_per_node={world.size}")
    train_rank(world, recipe, run_url)
    return seen


def test_dropout_masks_differ_between_ranks_and_between_steps(tmp_path: Path) -> None:
    states = run_ranks(2, random_states, str(tmp_path))
    assert len({state for of_rank in states for state in of_rank}) == 2 * 5


def test_the_last_step_is_logged_where_log_every_does_not_divide_it(tmp_path: Path) -> None:
    assert list(train_run(tmp_path, "train.steps=7", "track.log_every=3")) == [3, 6, 7]


def test_an_unfinished_newer_save_is_passed_over_and_left_where_it_is(tmp_path: Path) -> None:
    """It is not damage: the run died while it saved, and the next save of that step takes the place."""
    options = ("train.steps=12", "schedule={type: constant}", "checkpoint.every=6")
    whole = train_run(tmp_path, *options)
    folder = Path(step_folder(str(tmp_path), 12))
    (folder / "manifest.json").unlink()
    shutil.copytree(folder, Path(step_folder(str(tmp_path), 13)))
    assert losses(train_run(tmp_path, *options)) == losses(whole)
    assert not (tmp_path / "quarantine").exists()
    assert list_steps(str(tmp_path)) == [6, 12, 13]
    assert not (Path(step_folder(str(tmp_path), 13)) / "manifest.json").exists()


def test_time_of_validation_and_saves_is_not_step_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0

    def takes(owner: type, name: str, seconds: float) -> None:
        true = getattr(owner, name)

        def slow(*args: Any, **kwargs: Any) -> Any:
            nonlocal now
            now += seconds
            return true(*args, **kwargs)

        monkeypatch.setattr(owner, name, slow)

    monkeypatch.setattr("tests.small_run.Clock", lambda: Clock(now=lambda: now))
    takes(Batches, "at", 0.25)
    takes(TorchEngine, "train_step", 1.0)
    takes(TorchEngine, "evaluate", 100.0)
    takes(Checkpointer, "save", 1000.0)
    recipe = small_recipe(
        "train.steps=8", "train.validate_every=2", "checkpoint.every=3", "track.log_every=2"
    )
    train_rank(ALONE, recipe, make_run(tmp_path, recipe))
    lines = read_journal(tmp_path / "journal.jsonl")
    steps = [(line["step_time_s"], line["data_wait_s"]) for line in lines if line["event"] == "step"]
    assert steps == [(1.25, 0.25)] * 4
    seconds = {name: {line["seconds"] for line in lines if line["event"] == name}
               for name in ("validation", "saving")}  # fmt: skip
    assert seconds == {"validation": {100.0}, "saving": {1000.0}}


def test_what_a_manifest_speaks_of_is_on_the_disk_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Power may fail at any instant: shards, then the journal of their steps, then the manifest, whole."""
    done: list[tuple[str, str, int]] = []
    true_sync, true_replace = os.fsync, os.replace

    def fsync(handle: int) -> None:
        path = os.readlink(f"/proc/self/fd/{handle}")
        true_sync(handle)
        done.append(("sync", path, os.fstat(handle).st_size))

    def replace(source: str | Path, target: str | Path) -> None:
        true_replace(source, target)
        done.append(("rename", str(target), os.stat(target).st_size))
        journal = tmp_path / "journal.jsonl"
        if str(target).endswith("manifest.json"):
            done.append(("journal", str(journal), journal.stat().st_size))

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    recipe = small_recipe("train.steps=4", "checkpoint.every=2", "schedule={type: constant}", WAITING)
    train_rank(ALONE, recipe, make_run(tmp_path, recipe))
    for step in (2, 4):
        folder = step_folder(str(tmp_path), step)
        published = [event[:2] for event in done].index(("rename", f"{folder}/manifest.json"))
        before, after = done[:published], done[published + 1 :]
        written = {Path(path).name: size for kind, path, size in before if kind == "sync" and folder in path}
        shards = {path.name: path.stat().st_size for path in Path(folder).glob("*.distcp")}
        assert shards.items() <= written.items(), "shards"
        assert any(name.startswith(".manifest.json.") for name in written), "the manifest, under another name"
        journal = [size for kind, path, size in before if kind == "sync" and path.endswith("journal.jsonl")]
        assert journal[-1] == after[0][2], "every line of the journal"
        assert ("sync", folder) in [event[:2] for event in after], "the folder's entry for the manifest"
