"""Token ids where they are: in local files, in blocks of remote ones, in many shards as one stream."""

import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from launcher import files
from launcher.errors import Problem, UserError

_BLOCK_BYTES = 1 << 16
_CACHE_BYTES = 256 << 20
_FILES = 128
"""Files that are open at once; a process may often have 1024 in all."""


@dataclass(frozen=True, slots=True)
class IdFile:
    """Where a file has its ids."""

    url: str
    dtype: np.dtype[Any]
    count: int
    offset: int = 0
    """Bytes before the first id."""

    @property
    def end(self) -> int:
        """Byte after the last id."""
        return self.offset + self.count * self.dtype.itemsize


@final
class BlockCache:
    """The blocks of remote files that were read last, at most 256 MiB."""

    def __init__(self) -> None:
        self._blocks: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._lock = threading.Lock()

    def bring(self, wanted: Sequence[tuple[IdFile, int, int]]) -> dict[tuple[str, int], bytes]:
        """The blocks that hold these bytes [begin, end) of files; those not here are asked for at once."""
        keys: dict[tuple[str, int], IdFile] = {}
        for file, begin, end in wanted:
            for block in range(begin // _BLOCK_BYTES, -(-end // _BLOCK_BYTES)):
                keys[file.url, block] = file
        with self._lock:
            found = {key: self._blocks[key] for key in keys if key in self._blocks}
        missing = [key for key in keys if key not in found]
        spans = [
            (url, block * _BLOCK_BYTES, min((block + 1) * _BLOCK_BYTES, keys[url, block].end))
            for url, block in missing
        ]
        for key, span, content in zip(missing, spans, files.read_spans(spans), strict=True):
            if len(content) != span[2] - span[1]:
                raise _short(keys[key], span[1] + len(content))
            found[key] = content
        with self._lock:
            for key in keys:
                self._blocks[key] = found[key]
                self._blocks.move_to_end(key)
            while len(self._blocks) * _BLOCK_BYTES > _CACHE_BYTES:
                self._blocks.popitem(last=False)
        return found


@final
class Stored:
    """Files one after the other as one stream: opened when first read, blocks of remote ones kept a while."""

    def __init__(self, parts: Sequence[IdFile], dtype: np.dtype[Any]) -> None:
        self.dtype = dtype
        self._parts = parts
        self._begins = np.concatenate([[0], np.cumsum([part.count for part in parts], dtype=np.int64)])
        self._open: OrderedDict[int, int] = OrderedDict()
        self._lock = threading.Lock()
        self._cache = BlockCache()

    def __len__(self) -> int:
        return int(self._begins[-1])

    def __getitem__(self, span: slice) -> NDArray[Any]:
        """Ids from start to stop, both given and inside."""
        pieces = [self._read(*piece) for piece in self._cut(span)]
        return pieces[0] if len(pieces) == 1 else np.concatenate([np.empty(0, self.dtype), *pieces])

    def fetch(self, spans: Sequence[slice]) -> None:
        """Bring what is about to be read of remote files, all at once."""
        wanted = [
            self._bytes(number, begin, end)
            for span in spans
            for number, begin, end in self._cut(span)
            if files.local_path(self._parts[number].url) is None
        ]
        if wanted:
            self._cache.bring(wanted)

    def _cut(self, span: slice) -> list[tuple[int, int, int]]:
        """(file, first id, end) of each file that a span touches."""
        found, at = [], int(span.start)
        number = int(np.searchsorted(self._begins, at, side="right")) - 1
        while at < span.stop:
            first, after = int(self._begins[number]), int(self._begins[number + 1])
            end = min(int(span.stop), after)
            if end > at:
                found.append((number, at - first, end - first))
            at, number = max(at, end), number + 1
        return found

    def _bytes(self, number: int, begin: int, end: int) -> tuple[IdFile, int, int]:
        part = self._parts[number]
        size = part.dtype.itemsize
        return part, part.offset + begin * size, part.offset + end * size

    def _read(self, number: int, begin: int, end: int) -> NDArray[Any]:
        part = self._parts[number]
        wanted = self._bytes(number, begin, end)
        if files.local_path(part.url) is not None:
            # Not mapped: a file that is cut off while it is read would kill the process, and a first touch of
            # a page of a large file takes milliseconds.
            with self._lock:
                content = os.pread(self._descriptor(number), wanted[2] - wanted[1], wanted[1])
            if len(content) != wanted[2] - wanted[1]:
                raise _short(part, wanted[1] + len(content))
            return np.frombuffer(content, dtype=part.dtype)
        blocks = self._cache.bring([wanted])
        content = b"".join(blocks[key] for key in sorted(blocks))
        skip = wanted[1] - wanted[1] // _BLOCK_BYTES * _BLOCK_BYTES
        return np.frombuffer(content, dtype=part.dtype, count=end - begin, offset=skip)

    def _descriptor(self, number: int) -> int:
        if number not in self._open:
            part = self._parts[number]
            path = files.local_path(part.url)
            assert path is not None, "only local files are opened"
            try:
                self._open[number] = os.open(path, os.O_RDONLY)
            except OSError as error:
                message = f"cannot be read: {error.strerror}"
                raise UserError(
                    Problem(part.url, message, "copy the data again", key="data.source")
                ) from None
            # Samples are read in random order: what is read ahead would be thrown away.
            os.posix_fadvise(self._open[number], 0, 0, os.POSIX_FADV_RANDOM)
            if len(self._open) > _FILES:
                os.close(self._open.popitem(last=False)[1])
        self._open.move_to_end(number)
        return self._open[number]

    def __del__(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)


def _short(part: IdFile, end: int) -> UserError:
    message = f"has fewer bytes than were written: {end:,} of {part.end:,}"
    return UserError(Problem(part.url, message, "copy the data again", key="data.source"))
