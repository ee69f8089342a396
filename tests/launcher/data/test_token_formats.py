"""Token files of other programs, written here byte by byte as those programs document them."""

import struct
from pathlib import Path

import numpy as np
import pytest

from launcher.data.config import DataConfig, TokensSource
from launcher.data.dataset import Windows
from launcher.data.splits import open_splits
from launcher.data.token_formats import open_token_file
from launcher.errors import UserError

IDS = np.random.default_rng(0).integers(0, 300, 5000)


def write_llmc(path: Path, ids: np.ndarray, *, llama: bool = False) -> Path:
    """256 int32, of which three are used, then the ids: dev/data/data_common.py of karpathy/llm.c."""
    magic, version, dtype = (20240801, 7, "<u4") if llama else (20240520, 1, "<u2")
    path.write_bytes(struct.pack("<256i", magic, version, len(ids), *[0] * 253) + ids.astype(dtype).tobytes())
    return path


def write_megatron(path: Path, documents: list[np.ndarray], code: int = 8, dtype: str = "<u2") -> Path:
    """megatron/core/datasets/indexed_dataset.py: magic, version, type, counts, lengths, places, documents."""
    path.write_bytes(b"".join(document.astype(dtype).tobytes() for document in documents))
    lengths = [len(document) for document in documents]
    places = [sum(lengths[:at]) * np.dtype(dtype).itemsize for at in range(len(lengths))]
    index = b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, code, len(lengths), len(lengths) + 1)
    index += struct.pack(f"<{len(lengths)}i", *lengths) + struct.pack(f"<{len(lengths)}q", *places)
    index += struct.pack(f"<{len(lengths) + 1}q", *range(len(lengths) + 1))
    path.with_suffix(".idx").write_bytes(index)
    return path


def trained(path: Path, vocab_size: int = 300, dtype: str | None = None) -> list[int]:
    """All ids that a run could read."""
    source = TokensSource(type="tokens", train=str(path), dtype=dtype)  # type: ignore[arg-type]
    train = open_splits(DataConfig(source=source, seq_len=8), vocab_size).train
    assert isinstance(train, Windows)
    return train.tokens.read(0, len(train.tokens)).tolist()


@pytest.mark.parametrize("llama", [False, True])
def test_llmc_files_are_read_in_place(tmp_path: Path, llama: bool) -> None:
    path = write_llmc(tmp_path / "train.bin", IDS, llama=llama)
    assert trained(path) == IDS.tolist()
    assert open_token_file(str(path), None).kind == "llm.c's ids with a header"


@pytest.mark.parametrize(("code", "dtype"), [(8, "<u2"), (4, "<i4"), (3, "<i2")])
def test_megatrons_pairs_are_read_in_place(tmp_path: Path, code: int, dtype: str) -> None:
    documents = np.split(IDS, [100, 101, 900, 4000])
    path = write_megatron(tmp_path / "text_document.bin", documents, code, dtype)
    assert trained(path) == IDS.tolist()
    found = open_token_file(str(path), None)
    assert found.ends is not None
    assert found.ends.tolist() == [100, 101, 900, 4000, 5000]


def test_flat_files_are_read_as_before(tmp_path: Path) -> None:
    IDS.astype("<u2").tofile(tmp_path / "a.bin")
    IDS.astype("<u4").tofile(tmp_path / "b.bin")
    assert trained(tmp_path / "a.bin") == trained(tmp_path / "b.bin", dtype="uint32") == IDS.tolist()


def test_files_that_contradict_themselves_or_the_recipe_are_refused(tmp_path: Path) -> None:
    llmc = write_llmc(tmp_path / "a.bin", IDS)
    with pytest.raises(UserError, match=r"has ids of uint16, and data\.source\.dtype is uint32"):
        trained(llmc, dtype="uint32")
    llmc.write_bytes(llmc.read_bytes()[:-2])
    with pytest.raises(UserError, match="its header says 5,000 tokens, 11,024 bytes"):
        trained(llmc)
    llmc.write_bytes(struct.pack("<256i", 20240520, 9, *[0] * 254))
    with pytest.raises(UserError, match="llm.c's format 20240520 version 9"):
        trained(llmc)
    pair = write_megatron(tmp_path / "b.bin", [IDS])
    pair.write_bytes(pair.read_bytes() + b"\0\0")
    with pytest.raises(UserError, match="says 5,000 tokens, 10,000 bytes"):
        trained(pair)
    write_megatron(tmp_path / "c.bin", [IDS], code=7)
    with pytest.raises(UserError, match="ids of type 7"):
        trained(tmp_path / "c.bin")
    index = tmp_path / "b.idx"
    index.write_bytes(index.read_bytes()[:40])
    with pytest.raises(UserError, match="is cut off"):
        trained(pair)


def test_a_flat_file_too_narrow_for_the_vocabulary_is_refused(tmp_path: Path) -> None:
    IDS.astype("<u2").tofile(tmp_path / "a.bin")
    with pytest.raises(UserError, match="uint16 holds ids below 65,536, but model.vocab_size is 128,256"):
        trained(tmp_path / "a.bin", vocab_size=128_256)
