"""Tensors to and from a folder at any fsspec URL, through torch.distributed.checkpoint. Executes no pickle.

DCP keeps its index, `.metadata`, as a pickle. It is read here by an unpickler that knows nothing but the
plain data classes of that index; tensors are read by torch with weights_only; nothing else is ever stored.
"""

import contextlib
import pickle
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.distributed.checkpoint._fsspec_filesystem import FsspecReader, FsspecWriter
from torch.distributed.checkpoint.metadata import (
    _MEM_FORMAT_ENCODING,
    Metadata,
    StorageMeta,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

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


class UntrustedIndexError(Exception):
    """A checkpoint's index names something other than the index's own data classes."""


def _memory_format(kind: object, name: object) -> Any:
    """Stands for `getattr`, by which some versions of Python (3.11.0 to 3.11.3) pickle members of an enum."""
    if kind is not _MEM_FORMAT_ENCODING or name not in _MEM_FORMAT_ENCODING.__members__:
        raise UntrustedIndexError(f"the checkpoint's .metadata asks for {name} of {kind}, which is no index")
    return _MEM_FORMAT_ENCODING[str(name)]


class _IndexUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("builtins", "getattr"):
            return _memory_format
        if (module, name) in _ALLOWED or (module == "torch" and name in _ALLOWED_DTYPES):
            return super().find_class(module, name)
        raise UntrustedIndexError(
            f"the checkpoint's .metadata names {module}.{name}, which no index contains"
        )


class _SafeReader(FsspecReader):
    """DCP's reader with the index read by the restricted unpickler."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        path = self._get_metadata_path(kwargs.get("rank"))
        with self.fs.create_stream(path, "rb") as stream:
            metadata = _IndexUnpickler(stream).load()
        if metadata.storage_meta is None:
            metadata.storage_meta = StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


def write_tensors(url: str, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write every rank's shards (all ranks together); one file a rank, then the index."""
    with _quiet():
        save(dict(tensors), storage_writer=FsspecWriter(url, overwrite=False))


def read_tensors(url: str, tensors: Mapping[str, torch.Tensor]) -> None:
    """Fill the given tensors, sharded as they now are, from a folder written at any sharding."""
    with _quiet():
        load(dict(tensors), storage_reader=_SafeReader(url))


def read_shapes(url: str) -> dict[str, tuple[int, ...]]:
    """Name and whole shape of every tensor that a folder holds. UntrustedIndexError for anything else."""
    entries = _SafeReader(url).read_metadata().state_dict_metadata
    shapes = {}
    for name, entry in entries.items():
        if not isinstance(entry, TensorStorageMetadata):
            raise UntrustedIndexError(f"{name} is no tensor; a checkpoint of ours holds nothing else")
        shapes[name] = tuple(entry.size)
    return shapes


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """A world of one makes DCP warn that there is no process group; there need not be one."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.distributed.*")
        yield
