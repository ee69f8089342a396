"""Write and read tensors in a folder at any fsspec URL, through torch.distributed.checkpoint (DCP).

DCP stores its index, `.metadata`, as a pickle, and a pickle can run code. Here it is read by an unpickler
that accepts only the plain data classes of that index. Tensors are read by torch with weights_only. Nothing
else is stored.
"""

import contextlib
import hashlib
import os
import pickle
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import torch
from torch.distributed import ProcessGroup, is_initialized
from torch.distributed.checkpoint._fsspec_filesystem import FileSystem, FsspecReader, FsspecWriter
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import (
    _MEM_FORMAT_ENCODING,
    Metadata,
    StorageMeta,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.serialization import get_crc32_options, set_crc32_options

from launcher.checkpoint.manifest import FileEntry
from launcher.files import has_no_folders, storage_options

# A pickle can call only what find_class has returned to it; all other opcodes build numbers, strings and
# containers. So this list is all that a forged index can reach. Each entry either holds data or looks a
# layout or memory format up by its name: none of them opens, imports or runs anything.
_ALLOWED = {
    ("torch.distributed.checkpoint.metadata", "Metadata"),
    ("torch.distributed.checkpoint.metadata", "MetadataIndex"),
    ("torch.distributed.checkpoint.metadata", "TensorStorageMetadata"),
    ("torch.distributed.checkpoint.metadata", "TensorProperties"),
    ("torch.distributed.checkpoint.metadata", "ChunkStorageMetadata"),
    ("torch.distributed.checkpoint.metadata", "StorageMeta"),
    ("torch.distributed.checkpoint.metadata", "_MEM_FORMAT_ENCODING"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),
    ("torch", "Size"),
}
_ALLOWED_DTYPES = {"float32", "float64", "float16", "bfloat16", "int64", "int32", "uint8", "bool"}


_WORTH_A_THREAD = 1 << 16
"""Bytes."""


class UntrustedIndexError(Exception):
    """A checkpoint's index refers to something other than the index's own data classes."""


def _memory_format(kind: object, name: object) -> Any:
    """Replaces `getattr`, which some versions of Python (3.11.0 to 3.11.3) use to pickle enum members."""
    # The real getattr would lead from any allowed class to its functions, and on to their globals.
    if kind is not _MEM_FORMAT_ENCODING or name not in _MEM_FORMAT_ENCODING.__members__:
        raise UntrustedIndexError(
            f"the checkpoint's .metadata asks for {name} of {kind}, which is not part of an index"
        )
    return _MEM_FORMAT_ENCODING[str(name)]


class _IndexUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("builtins", "getattr"):
            return _memory_format
        if (module, name) in _ALLOWED or (module == "torch" and name in _ALLOWED_DTYPES):
            return super().find_class(module, name)
        raise UntrustedIndexError(
            f"the checkpoint's .metadata refers to {module}.{name}, which is not part of an index"
        )


class _SafeReader(FsspecReader):
    """DCP's reader with the index read by the restricted unpickler."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        # The base class's method with one change, the unpickler; its own calls pickle.load.
        path = self._get_metadata_path(kwargs.get("rank"))
        with self.fs.create_stream(path, "rb") as stream:
            metadata = _IndexUnpickler(stream).load()
        if metadata.storage_meta is None:
            metadata.storage_meta = StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


def _open_reader(url: str) -> _SafeReader:
    return _SafeReader(url, **storage_options(url))


class _Digesting:
    """A stream to be written once from beginning to end, whose bytes are counted and hashed as they pass."""

    def __init__(self, stream: Any, helper: Executor) -> None:
        self._stream, self._helper = stream, helper
        self._digest, self._count = hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        # Both release Python's lock, and take about as long as each other.
        size = memoryview(data).nbytes
        hashing = self._helper.submit(self._digest.update, data) if size >= _WORTH_A_THREAD else None
        if hashing is None:
            self._digest.update(data)
        written: int = self._stream.write(data)
        if hashing is not None:
            hashing.result()
        self._count += size
        return written

    def tell(self) -> int:
        return self._count

    def flush(self) -> None:
        self._stream.flush()

    def fileno(self) -> int:
        return self._stream.fileno()

    def close(self) -> None:
        self._stream.close()

    def entry(self) -> FileEntry:
        return FileEntry(bytes=self._count, sha256=self._digest.hexdigest())


class _DigestingFiles(FileSystem):
    """DCP's door to fsspec, which remembers what it has written."""

    def __init__(self, inner: FileSystem, helper: Executor) -> None:
        self.fs, self._helper = inner.fs, helper
        self._has_no_folders = has_no_folders(inner.fs)
        self.written: dict[str, FileEntry] = {}

    def mkdir(self, path: str | os.PathLike[str]) -> None:
        if not self._has_no_folders:
            super().mkdir(path)

    def exists(self, path: str | os.PathLike[str]) -> bool:
        return not self._has_no_folders and super().exists(path)  # an object store's was cleared just now

    @contextlib.contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Iterator[Any]:
        # There a put is seen at its end, and a rename is a copy: DCP's index needs no temporary name.
        path = os.fspath(path).removesuffix(".tmp") if self._has_no_folders else path
        with super().create_stream(path, mode) as stream:
            if mode != "wb":
                yield stream
                return
            digesting = _Digesting(stream, self._helper)
            yield digesting
            self.written[os.path.basename(path)] = digesting.entry()

    def rename(self, path: str | os.PathLike[str], new_path: str | os.PathLike[str]) -> None:
        if self._has_no_folders:
            return
        super().rename(path, new_path)
        self.written[os.path.basename(new_path)] = self.written.pop(os.path.basename(path))


def write_tensors(
    url: str, tensors: Mapping[str, torch.Tensor], group: ProcessGroup | None = None
) -> Mapping[str, FileEntry]:
    """Write every rank's shards (all ranks together): one file per rank, then the index.

    Returns size and digest of each file that this rank has written. Raises what one of the ranks met, on all.
    """
    # DCP plans across ranks: one of them writes a tensor that all hold, and each writes its own pieces of a
    # sharded one. Rank 0 writes the index after all have reported their pieces. The folder was emptied
    # before, so an index in it now is another process's, and is not overwritten.
    writer: Any = FsspecWriter(url, overwrite=False, **storage_options(url))
    with ThreadPoolExecutor(1, "digests") as helper, _no_crc():
        writer.fs = files = _DigestingFiles(writer.fs, helper)
        try:
            with _quiet() if not is_initialized() else contextlib.nullcontext():
                save(dict(tensors), storage_writer=writer, process_group=group)
        except CheckpointException as failure:
            raise next(iter(failure.failures.values()))[0] from None
    return files.written


def read_tensors(url: str, tensors: Mapping[str, torch.Tensor]) -> None:
    """Load the given tensors, sharded as they are now, from a folder written with any sharding."""
    with _quiet():
        load(dict(tensors), storage_reader=_open_reader(url))


def read_shapes(url: str) -> dict[str, tuple[int, ...]]:
    """Name and whole shape of every tensor in a folder. Raises UntrustedIndexError for anything else."""
    entries = _open_reader(url).read_metadata().state_dict_metadata
    shapes = {}
    for name, entry in entries.items():
        # Other kinds of entries are pickled objects, which DCP would load with torch.load.
        if not isinstance(entry, TensorStorageMetadata):
            raise UntrustedIndexError(f"{name} is not a tensor; our checkpoints contain only tensors")
        shapes[name] = tuple(entry.size)
    return shapes


@contextlib.contextmanager
def _no_crc() -> Iterator[None]:
    """Without the checksum that torch computes for each tensor: nothing reads it, and there are digests."""
    before = get_crc32_options()
    set_crc32_options(False)
    try:
        yield
    finally:
        set_crc32_options(before)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """On a single process DCP warns that there is no process group, which is not needed there."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.distributed.*")
        yield
