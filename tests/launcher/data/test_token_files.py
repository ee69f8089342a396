"""Files of token ids that are something else are refused, with the name of what they are."""

from pathlib import Path

import numpy as np
import pytest

from launcher.data.token_files import check_format, check_width
from launcher.errors import UserError

IDS = np.random.default_rng(0).integers(0, 200, 5000)


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"\x93NUMPY\x01\x00", "a NumPy array"),
        (b"PK\x03\x04", "a zip archive"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"PAR1", "Parquet"),
        (b"MMIDIDX\x00\x00", "Megatron's index"),
        (b'{"text": "It was the best of times, it was the worst of times, it was"}', "text"),
    ],
)
def test_another_format_is_named(tmp_path: Path, head: bytes, name: str) -> None:
    path = tmp_path / "A.bin"
    path.write_bytes(head + IDS.astype("<u2").tobytes() * (name != "text"))
    with pytest.raises(UserError, match=name):
        check_format(str(path), "uint16")


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32"])
def test_ids_are_read_as_ids(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "A.bin"
    IDS.astype(dtype).tofile(path)
    check_format(str(path), dtype)
    check_width(np.fromfile(path, dtype), str(path))


def test_text_is_ids_of_bytes(tmp_path: Path) -> None:
    path = tmp_path / "A.bin"
    path.write_bytes(b"It was the best of times, it was the worst of times, " * 20)
    check_format(str(path), "uint8")


@pytest.mark.parametrize(
    ("written", "read", "most"), [("<u4", "<u2", 200), ("<u4", "<u2", 128_256), ("<u2", "u1", 200)]
)
def test_ids_of_twice_the_width_are_noticed(written: str, read: str, most: int) -> None:
    ids = np.random.default_rng(1).integers(0, most, 5000).astype(written).view(read)
    with pytest.raises(UserError, match="every second id is 0"):
        check_width(ids, "A.bin")


def test_a_stream_that_counts_to_one_is_not() -> None:
    check_width(np.tile(np.array([1, 0], dtype="<u2"), 500), "A.bin")
