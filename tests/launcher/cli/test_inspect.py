"""`launch inspect` and `launch verify`: what is stored, without torch."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.checkpoint.catalog import step_folder
from launcher.checkpoint.index import INDEX, BadIndexError, TensorEntry, read_index
from launcher.checkpoint.storage import read_shapes
from tests.launch import assert_one_screen, launch
from tests.small_run import train_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with checkpoints of steps 10 and 20, written by two ranks."""
    folder = tmp_path_factory.mktemp("inspect") / "run"
    train_run(folder, "parallel.strategy=fsdp2", ranks=2)
    return folder


def test_the_index_read_without_torch_is_what_torch_reads(run: Path) -> None:
    url = step_folder(str(run), 20)
    index = read_index(url)
    assert {name: entry.shape for name, entry in index.items()} == read_shapes(url)
    assert {entry.kind for entry in index.values()} == {"float32", "int64"}
    assert index["model/readout.weight"] == TensorEntry((256, 16), "float32")
    assert index["model/readout.weight"].bytes == 256 * 16 * 4


def test_inspect_says_what_a_checkpoint_holds_and_imports_no_torch(run: Path) -> None:
    script = (
        "import sys; from launcher.cli.main import main; code = main(sys.argv[1:]);"
        "print('torch' in sys.modules); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "inspect", str(run)], capture_output=True, text=True, check=True
    )
    manifest = json.loads((Path(step_folder(str(run), 20)) / "manifest.json").read_text())
    for fragment in (
        "step-0000000020",
        "20 of 20, 5,120 tokens",
        "torch fsdp2 on 2 ranks",
        manifest["base_shapes_hash"],
        "model/",
        f"sha256 {manifest['files'][INDEX]['sha256'][:16]}",
    ):
        assert fragment in done.stdout
    assert done.stdout.endswith("False\n")


def test_inspect_compares_two_checkpoints(run: Path, tmp_path: Path) -> None:
    train_run(tmp_path / "wide", "model.d_model=32", "seed=8")
    first, second = step_folder(str(run), 10), step_folder(str(tmp_path / "wide"), 20)
    done = launch("inspect", first, second, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    for fragment in (
        "step: 10 -> 20",
        "world_size: 2 -> 1",
        "strategy: fsdp2 -> single",
        ", seed 7 -> ",
        "model/embedding.weight: float32 256 x 16 -> float32 256 x 32",
        "multipliers of ",
        "-  d_model: 16",
        "+  d_model: 32",
    ):
        assert fragment in done.stdout, done.stdout
    same = launch("inspect", first, first, "--tensors", folder=tmp_path)
    assert "no difference" in same.stdout
    assert "model/readout.weight" in same.stdout


def test_verify_reads_all_of_a_run_and_names_what_is_damaged(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    done = launch("verify", "copy", folder=tmp_path)
    assert (done.returncode, done.stdout.count(": good, ")) == (0, 2)
    shard = Path(step_folder(str(copy), 20)) / "__1_0.distcp"
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(content)
    (Path(step_folder(str(copy), 30))).mkdir()
    done = launch("verify", "copy", folder=tmp_path)
    assert done.returncode == 1
    assert "step 20: damaged: __1_0.distcp has digest" in done.stdout
    assert "step 30: unfinished: no manifest" in done.stdout
    assert "3 checkpoints, 1 damaged" in done.stdout
    assert not (copy / "quarantine").exists()


@pytest.mark.parametrize("verb", ["inspect", "verify"])
def test_what_is_not_a_run_is_one_screen(tmp_path: Path, verb: str) -> None:
    assert_one_screen(launch(verb, "nothing", folder=tmp_path), "nothing")


class Payload:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("ran",)


@pytest.mark.parametrize(
    "content", [b"", b"not a pickle", pickle.dumps({"state": 1}), pickle.dumps(Payload()), b"\x80\x04K\x01."]
)
def test_a_hostile_index_is_refused_in_one_line_and_does_not_run(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / INDEX).write_bytes(content)
    with pytest.raises(BadIndexError) as caught:
        read_index(str(tmp_path))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()
