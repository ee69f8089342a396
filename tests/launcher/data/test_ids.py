"""Ids in many files read as one stream, in place, without reading what is not asked for."""

import os
import resource
from pathlib import Path

import fsspec
import numpy as np
import pytest

from launcher.data import ids as ids_module
from launcher.data.ids import IdFile, Stored
from launcher.errors import UserError

FOUND = np.random.default_rng(0).integers(0, 60_000, 300_000).astype("<u2")


def _cut(url: str, write: object) -> Stored:
    parts = np.split(FOUND, [7, 7, 100_000, 250_001])
    for number, part in enumerate(parts):
        write(f"{url}/{number}.bin", part.tobytes())  # type: ignore[operator]
    return Stored(
        [IdFile(f"{url}/{n}.bin", FOUND.dtype, len(part)) for n, part in enumerate(parts)], FOUND.dtype
    )


def _spans() -> list[slice]:
    generator = np.random.default_rng(1)
    starts = generator.integers(0, len(FOUND) - 90_000, 40)
    return [
        slice(0, 20),
        slice(5, 9),
        *(slice(int(s), int(s) + int(s) % 90_000) for s in starts),
        slice(0, len(FOUND)),
    ]


def test_shards_read_as_one_stream(tmp_path: Path) -> None:
    stored = _cut(str(tmp_path), lambda url, content: Path(url).write_bytes(content))
    assert len(stored) == len(FOUND)
    for span in _spans():
        assert np.array_equal(stored[span], FOUND[span]), span


def test_remote_shards_read_the_same_and_keep_a_bounded_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    filesystem = fsspec.filesystem("memory")
    stored = _cut("memory://ids", lambda url, content: filesystem.pipe_file(url, content))
    monkeypatch.setattr(ids_module, "_CACHE_BYTES", 3 * ids_module._BLOCK_BYTES)
    for span in _spans():
        stored.fetch([span, slice(span.start, span.start)])
        assert np.array_equal(stored[span], FOUND[span]), span
        assert len(stored._cache._blocks) <= 3


def test_what_is_fetched_ahead_is_not_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    filesystem = fsspec.filesystem("memory")
    stored = _cut("memory://ahead", lambda url, content: filesystem.pipe_file(url, content))
    asked: list[int] = []
    real = ids_module.files.read_spans
    monkeypatch.setattr(ids_module.files, "read_spans", lambda spans: asked.append(len(spans)) or real(spans))
    stored.fetch([slice(10, 20), slice(200_000, 200_010), slice(299_990, 300_000)])
    for start in (10, 200_000, 299_990):
        assert np.array_equal(stored[slice(start, start + 10)], FOUND[start : start + 10])
    assert asked == [3, 0, 0, 0], "three blocks in one request, then none"


def test_a_remote_shard_that_is_cut_off_is_named() -> None:
    filesystem = fsspec.filesystem("memory")
    stored = _cut("memory://short", lambda url, content: filesystem.pipe_file(url, content[:1000]))
    with pytest.raises(UserError, match=r"memory://short/3\.bin: has fewer bytes than were written"):
        stored[slice(100_000, 200_000)]


def test_a_shard_that_is_missing_or_cut_off_is_named(tmp_path: Path) -> None:
    stored = _cut(str(tmp_path), lambda url, content: Path(url).write_bytes(content))
    (tmp_path / "2.bin").unlink()
    with pytest.raises(UserError, match=r"2\.bin: cannot be read: No such file"):
        stored[slice(50, 60)]
    os.truncate(tmp_path / "3.bin", 100)
    with pytest.raises(UserError, match=r"3\.bin: has fewer bytes than were written"):
        stored[slice(200_000, 200_001)]


def test_two_terabytes_open_at_once_and_take_no_memory(tmp_path: Path) -> None:
    # Sparse: 1000 shards of 1e9 ids, of which the last is written to.
    for number in range(1000):
        with open(tmp_path / f"{number}.bin", "wb") as stream:
            stream.truncate(2 * 10**9)
    with open(tmp_path / "999.bin", "r+b") as stream:
        stream.seek(2 * 10**9 - 2)
        stream.write(b"\x07\x00")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    stored = Stored(
        [IdFile(str(tmp_path / f"{n}.bin"), FOUND.dtype, 10**9) for n in range(1000)], FOUND.dtype
    )
    assert len(stored) == 10**12
    assert stored[slice(10**12 - 2, 10**12)].tolist() == [0, 7]
    for start in range(0, 10**12 - 2048, 10**12 // 1500):
        assert not stored[slice(start, start + 2048)].any()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000, "KiB"
