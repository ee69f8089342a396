"""Tensors on storage: any URL, any sharding, and no pickle that is not the index's own."""

import json
import os
import pickle
import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
import torch
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import _MEM_FORMAT_ENCODING
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from launcher import files
from launcher.checkpoint.catalog import (
    Outcome,
    Rejected,
    Saved,
    find_newest,
    list_steps,
    read_checkpoint,
    step_folder,
)
from launcher.checkpoint.checkpointer import Checkpointer
from launcher.checkpoint.storage import (
    UntrustedIndexError,
    _IndexUnpickler,
    read_shapes,
    read_tensors,
    write_tensors,
)
from launcher.progress import Progress
from launcher.world import World
from tests.launch import assert_one_screen, launch
from tests.launcher.checkpoint.savers import ALONE, open_saver, save
from tests.ranks import run_ranks
from tests.s3 import Door, Trouble, in_environment, serve_s3
from tests.small_run import RECIPE

# Sizes that no number of ranks here divides.
SHAPES = {"model/a": (7, 3), "model/b": (5,), "optim/a/exp_avg": (7, 3)}


def whole_tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()} | {
        "optim/a/step": torch.tensor(3.0)
    }


def cut(tensors: dict[str, torch.Tensor], world: World) -> dict[str, torch.Tensor]:
    """The same tensors, sharded over the ranks; 0-d ones whole on each."""
    if world.size == 1:
        return tensors
    mesh = init_device_mesh("cpu", (world.size,))
    return {
        name: distribute_tensor(tensor, mesh, [Shard(0)]) if tensor.ndim else tensor
        for name, tensor in tensors.items()
    }


def save_cut(world: World, url: str) -> None:
    save(url, 3, cut(whole_tensors(), world), world)


def load_cut(world: World, url: str) -> dict[str, torch.Tensor]:
    empty = cut({name: torch.zeros_like(tensor) for name, tensor in whole_tensors().items()}, world)
    read_tensors(step_folder(url, 3), empty)
    return {name: t.full_tensor() if isinstance(t, DTensor) else t for name, t in empty.items()}


@pytest.mark.parametrize(("saved_on", "loaded_on"), [(1, 1), (4, 2), (2, 3), (1, 4), (4, 1)])
def test_tensors_are_equal_bit_for_bit_at_any_other_number_of_ranks(
    tmp_path: Path, saved_on: int, loaded_on: int
) -> None:
    run_ranks(saved_on, save_cut, str(tmp_path))
    assert isinstance(read_checkpoint(step_folder(str(tmp_path), 3)), Saved)
    for loaded in run_ranks(loaded_on, load_cut, str(tmp_path)):
        for name, tensor in whole_tensors().items():
            assert torch.equal(loaded[name], tensor), name


def test_a_memory_url_works_in_one_process() -> None:
    url = f"memory://{uuid.uuid4().hex}"
    save_cut(ALONE, url)
    assert all(torch.equal(t, whole_tensors()[name]) for name, t in load_cut(ALONE, url).items())


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """The door to a real S3 API server with an empty bucket."""
    pytest.importorskip("s3fs", reason="the extra `s3` is not installed")
    pytest.importorskip("moto", reason="moto, the S3 server, is not installed")
    with serve_s3(tmp_path_factory.mktemp("moto")) as (door, environment), in_environment(environment):
        yield door


@pytest.fixture
def bucket(door: Door) -> str:
    """Its bucket, while the door behaves."""
    door.behave()
    return "s3://checkpoints"


def test_a_bucket_that_does_not_exist_is_an_error_and_is_not_made(bucket: str, tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(RECIPE)
    words = ("small.yaml", "--run-dir", "s3://chekpoints/run", "train.steps=6")
    assert_one_screen(launch(*words, folder=tmp_path), "s3://chekpoints/run: cannot be written", "bucket")
    assert not fsspec.filesystem("s3").exists("chekpoints")


@pytest.mark.parametrize(
    ("name", "value", "fragment"),
    [
        ("AWS_SECRET_ACCESS_KEY", None, "Credentials"),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:9", "EndpointConnectionError: Could not connect"),
    ],
)
def test_a_store_that_cannot_be_reached_is_one_line(
    bucket: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: str | None,
    fragment: str,
) -> None:
    if value is None:
        monkeypatch.delenv(name)
    else:
        monkeypatch.setenv(name, value)
    fsspec.filesystem("s3").clear_instance_cache()
    (tmp_path / "small.yaml").write_text(RECIPE)
    for words in (("small.yaml", "--run-dir", f"{bucket}/new", "train.steps=6"), ("resume", f"{bucket}/new")):
        assert_one_screen(
            launch(*words, folder=tmp_path), f"launch: {bucket}/new", fragment, "AWS_ENDPOINT_URL"
        )


def test_a_remote_run_trains_and_resumes_and_removes_its_local_copies(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsspec.filesystem("s3").clear_instance_cache()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    (tmp_path / "small.yaml").write_text(RECIPE)
    run = f"{bucket}/remote"
    done = launch("small.yaml", "--run-dir", run, "train.steps=6", "checkpoint.every=3", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    done = launch("resume", run, "train.steps=9", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in files.read_text(f"{run}/journal.jsonl").splitlines()]
    assert [line["step"] for line in lines if line["event"] == "step"] == list(range(1, 10))
    assert lines[-1]["class"] == "done"
    assert not list((tmp_path / "tmp").glob("launch-spool-*"))


def test_an_s3_url_works(bucket: str) -> None:
    url = f"{bucket}/run"
    save_cut(ALONE, url)
    found, rejected = find_newest(url, verify=True)
    assert found is not None
    assert found.step == 3
    assert rejected == []
    assert all(torch.equal(t, whole_tensors()[name]) for name, t in load_cut(ALONE, url).items())
    files.remove(files.join(found.url, "manifest.json"))
    found, rejected = find_newest(url, verify=True)
    assert found is None
    assert [bad.damaged for bad in rejected] == [False]


def save_steps(saver: Checkpointer, *steps: int) -> list[Outcome]:
    for step in steps:
        saver.save(Progress(step, step), {"a": torch.ones(4, 4)}, {}, wait=False)
    saver.finish()
    return list(saver.outcomes())


def test_a_save_makes_few_requests_and_no_more_the_longer_a_run_is(door: Door, bucket: str) -> None:
    saver = open_saver(f"{bucket}/few", keep=2)
    save_steps(saver, 1, 2, 3)
    counts = []
    for step in (4, 5):
        door.log.clear()
        save_steps(saver, step)
        counts.append(len(door.log))
    # Two listings, three puts, a listing, and two for the one that is deleted.
    assert counts == [8, 8], door.log


def test_a_remote_file_is_read_in_one_request(door: Door, bucket: str) -> None:
    content = os.urandom(12 << 20)
    files.write_bytes(f"{bucket}/journal", content)
    door.log.clear()
    assert files.read_bytes(f"{bucket}/journal") == content
    # Between two of them it may be replaced, as a journal is.
    assert len([line for line in door.log if line.startswith("GET")]) == 1, door.log


@pytest.mark.parametrize(("trouble", "times"), [("503", 3), ("reset", 3), ("slow", 4)])
def test_what_passes_by_itself_is_waited_for(door: Door, bucket: str, trouble: Trouble, times: int) -> None:
    saver = open_saver(f"{bucket}/passes-{trouble}", keep=2)
    door.trouble, door.times = trouble, times
    (outcome,) = save_steps(saver, 1)
    assert (outcome.reason, door.times) == ("", 0)
    assert isinstance(read_checkpoint(str(outcome.url)), Saved)


@pytest.mark.parametrize(
    ("trouble", "method"), [("503", "PUT"), ("reset", "PUT"), ("403", "PUT"), ("503", "GET")]
)
def test_what_does_not_pass_ends_the_save_after_a_few_tries_and_nothing_else(
    door: Door, bucket: str, trouble: Trouble, method: str
) -> None:
    saver = open_saver(f"{bucket}/stays-{trouble}-{method}", keep=2)
    save_steps(saver, 1)
    door.trouble, door.only = trouble, method
    door.log.clear()
    (outcome,) = save_steps(saver, 2)
    assert outcome.url is None
    assert outcome.reason
    assert sum(text.startswith(method) for text in door.log) <= 8, door.log
    door.behave()
    found, rejected = find_newest(f"{bucket}/stays-{trouble}-{method}", verify=True)
    assert found is not None
    assert (found.step, rejected) == (1, []), "nothing of the other one is left"
    (outcome,) = save_steps(saver, 3)
    assert outcome.url is not None


def test_training_continues_while_the_store_refuses(door: Door, bucket: str, tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(RECIPE)
    run = f"{bucket}/refused"

    def refuse(text: str) -> None:
        if "step-0000000006" in text:
            door.trouble, door.only = "403", "PUT"
        elif "step-0000000008" in text:
            door.trouble = ""

    door.on_request = refuse
    words = ("train.steps=10", "checkpoint.every=2", "checkpoint.asynchronous=false")
    done = launch("small.yaml", "--run-dir", run, *words, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "step 6 is not saved: " in done.stdout
    assert list_steps(run) == [4, 8, 10]


def test_parts_of_an_upload_that_a_killed_process_has_left_are_removed(bucket: str) -> None:
    store = fsspec.filesystem("s3")
    for run in ("killed", "other"):
        key = f"{run}/checkpoints/step-0000000001/__0_0.distcp"
        upload = store.call_s3("create_multipart_upload", Bucket="checkpoints", Key=key)["UploadId"]
        part = {"Bucket": "checkpoints", "Key": key, "PartNumber": 1, "UploadId": upload}
        store.call_s3("upload_part", **part, Body=b"x" * 1000)
    assert files.abort_uploads(f"{bucket}/killed") == 1
    left = store.call_s3("list_multipart_uploads", Bucket="checkpoints")["Uploads"]
    assert [upload["Key"].partition("/")[0] for upload in left] == ["other"]


class Attack:
    """What a pickle can do to whoever loads it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.path}",)


def test_an_index_that_runs_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    write_tensors(str(tmp_path / "ck"), {"a": torch.ones(2)})
    (tmp_path / "ck/.metadata").write_bytes(pickle.dumps(Attack(tmp_path / "owned")))
    with pytest.raises(UntrustedIndexError, match="system"):
        read_shapes(str(tmp_path / "ck"))
    with pytest.raises(CheckpointException):
        read_tensors(str(tmp_path / "ck"), {"a": torch.zeros(2)})
    assert not (tmp_path / "owned").exists()


class Member:
    """Pickled as some versions of Python pickle a member of an enum: by getattr."""

    def __init__(self, kind: type, name: str) -> None:
        self.kind, self.name = kind, name

    def __reduce__(self) -> tuple[object, tuple[type, str]]:
        return getattr, (self.kind, self.name)


def test_an_index_by_another_version_of_python_is_read(tmp_path: Path) -> None:
    path = tmp_path / "index"
    path.write_bytes(pickle.dumps(Member(_MEM_FORMAT_ENCODING, "TORCH_CONTIGUOUS_FORMAT")))
    with path.open("rb") as stream:
        assert _IndexUnpickler(stream).load() is _MEM_FORMAT_ENCODING.TORCH_CONTIGUOUS_FORMAT


@pytest.mark.parametrize(("kind", "name"), [(_MEM_FORMAT_ENCODING, "__class__"), (torch.Size, "__base__")])
def test_an_index_reaches_nothing_else_by_getattr(tmp_path: Path, kind: type, name: str) -> None:
    (tmp_path / ".metadata").write_bytes(pickle.dumps(Member(kind, name)))
    with pytest.raises(UntrustedIndexError, match=f"asks for {name} of"):
        read_shapes(str(tmp_path))


def test_a_shard_that_runs_code_does_not_run(tmp_path: Path) -> None:
    write_tensors(str(tmp_path / "ck"), {"a": torch.ones(2)})
    shard = next((tmp_path / "ck").glob("*.distcp"))
    attack = tmp_path / "attack.pt"
    torch.save(Attack(tmp_path / "owned"), attack)
    shard.write_bytes(attack.read_bytes().ljust(shard.stat().st_size, b"\0"))
    with pytest.raises(CheckpointException, match="posix.system whose module posix is blocked"):
        read_tensors(str(tmp_path / "ck"), {"a": torch.zeros(2)})
    assert not (tmp_path / "owned").exists()


def test_names_and_shapes_are_read_without_the_tensors(tmp_path: Path) -> None:
    write_tensors(str(tmp_path / "ck"), whole_tensors())
    assert read_shapes(str(tmp_path / "ck")) == {name: tuple(t.shape) for name, t in whole_tensors().items()}


@pytest.mark.parametrize("damage", ["cut", "missing", "flip", "no manifest", "bad manifest"])
def test_no_damage_is_taken_for_a_checkpoint(tmp_path: Path, damage: str) -> None:
    save_cut(ALONE, str(tmp_path))
    folder = Path(step_folder(str(tmp_path), 3))
    shard = next(folder.glob("*.distcp"))
    match damage:
        case "cut":
            shard.write_bytes(shard.read_bytes()[:-1])
        case "missing":
            shard.unlink()
        case "flip":
            content = bytearray(shard.read_bytes())
            content[100] ^= 1
            shard.write_bytes(content)
        case "no manifest":
            (folder / "manifest.json").unlink()
        case "bad manifest":
            (folder / "manifest.json").write_text('{"format": 1')
    found, rejected = find_newest(str(tmp_path), verify=True)
    assert found is None
    assert len(rejected) == 1
    assert isinstance(rejected[0], Rejected)
