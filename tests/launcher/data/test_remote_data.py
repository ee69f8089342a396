"""A data set in an object store: read in ranges, many at once, and staged; through a real S3 server."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest

from launcher.data.config import DataConfig, DatasetSource
from launcher.data.splits import check_data, open_splits
from launcher.errors import StoreError, UserError
from tests.launch import LAUNCH
from tests.launcher.corpus.corpora import made, texts, write_lines
from tests.s3 import Door, in_environment, serve_s3

URL = "s3://checkpoints/set"


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("local")
    source = write_lines(folder / "a.jsonl", [{"text": text} for text in texts(4000)])
    made(folder / "set", source, validation_fraction=0.1)
    return folder / "set"


@pytest.fixture(scope="module")
def door(local: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with serve_s3(tmp_path_factory.mktemp("moto")) as (door, environment), in_environment(environment):
        fsspec.filesystem("s3").clear_instance_cache()
        remote = fsspec.filesystem("s3")
        remote.put(f"{local}/", URL, recursive=True)
        source = local.parent / "a.jsonl"
        remote.put(str(source), f"{URL}-in/a.jsonl")
        yield door
        fsspec.filesystem("s3").clear_instance_cache()


@pytest.fixture(autouse=True)
def calm(door: Door) -> None:
    door.behave()


def config(path: object, **changes: object) -> DataConfig:
    return DataConfig(source=DatasetSource(type="dataset", path=str(path)), seq_len=32, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("documents", ["joined", "separate"])
def test_a_remote_set_gives_the_samples_of_the_local_one(local: Path, door: Door, documents: str) -> None:
    near, far = (open_splits(config(path, documents=documents), 256) for path in (local, URL))
    assert near.fingerprint == far.fingerprint
    indices = np.random.default_rng(0).integers(0, near.train.num_samples, 40)
    one, two = near.train.batch(indices), far.train.batch(indices)
    assert one.x.tolist() == two.x.tolist()
    assert one.y.tolist() == two.y.tolist()
    assert near.validation.num_samples == far.validation.num_samples > 0


def test_what_is_read_is_a_small_part_and_asked_for_at_once(local: Path, door: Door) -> None:
    train = open_splits(config(URL), 256).train
    door.log.clear()
    train.batch(np.array([0, train.num_samples // 2, train.num_samples - 1]))
    reads = [line for line in door.log if line.startswith("GET") and ".bin" in line]
    # 3 windows of 32 bytes are in 3 blocks of 64 KiB, of a shard of a megabyte.
    assert len(reads) == 3, door.log
    train.batch(np.array([1, train.num_samples // 2 + 1]))
    assert len([line for line in door.log if line.startswith("GET") and ".bin" in line]) == 3


def test_a_store_that_refuses_a_while_is_asked_again_and_one_that_stays_so_is_named(door: Door) -> None:
    train = open_splits(config(URL), 256).train
    door.trouble, door.times = "503", 2
    train.batch(np.array([5]))
    fresh = open_splits(config(URL), 256).train
    door.trouble, door.times = "403", -1
    with pytest.raises((StoreError, PermissionError)):
        fresh.batch(np.array([5]))


def test_staging_copies_each_shard_once_and_compares_it(local: Path, door: Door, tmp_path: Path) -> None:
    staged = open_splits(config(URL, stage=str(tmp_path / "disk")), 256)
    (copy,) = (tmp_path / "disk").iterdir()
    assert {p.name for p in copy.glob("*-*")} >= {p.name for p in local.glob("*-*")}
    door.log.clear()
    again = open_splits(config(URL, stage=str(tmp_path / "disk")), 256)
    assert not [line for line in door.log if ".bin" in line and line.startswith("GET")]
    near = open_splits(config(local), 256)
    indices = np.arange(20)
    for splits in (staged, again):
        assert splits.train.batch(indices).x.tolist() == near.train.batch(indices).x.tolist()
    shard = next(local.glob("train-*.bin"))
    bad = bytearray(shard.read_bytes())
    bad[7] ^= 1
    shutil.copytree(local, tmp_path / "bad")
    (tmp_path / "bad" / shard.name).write_bytes(bad)
    with pytest.raises(UserError, match="has other content than was written"):
        open_splits(config(tmp_path / "bad", stage=str(tmp_path / "other")), 256)


def test_a_login_node_reads_nothing_but_the_description(local: Path, door: Door, tmp_path: Path) -> None:
    door.log.clear()
    check_data(config(URL, stage=str(tmp_path / "disk")), 256)
    assert not [line for line in door.log if ".bin" in line and line.startswith("GET")]
    assert not (tmp_path / "disk").exists()
    with pytest.raises(UserError, match="200 is too few: the tokenizer of"):
        check_data(config(URL), 200)


def test_a_corpus_in_a_store_is_built_as_a_local_one(local: Path, door: Door, tmp_path: Path) -> None:
    words = ["data", "build", f"{URL}-in/", "-o", str(tmp_path / "out"), "--tokenizer", "bytes"]
    # A process of its own: workers have the environment of the first process that was started for them.
    subprocess.run(
        [*LAUNCH, *words, "--validation", "0.1", "--workers", "1"], check=True, capture_output=True
    )
    ours = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*-*")}
    assert ours == {path.name: path.read_bytes() for path in local.glob("*-*")}
