"""Names, shapes and kinds of a checkpoint's tensors, read from DCP's index without torch.

The index is a pickle. Here every class in it is replaced by one that only holds data, so that nothing of
torch is imported and nothing can run. storage.py has the reader that torch itself needs.
"""

import io
import math
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from launcher import files
from launcher.checkpoint.catalog import Rejected, Saved

INDEX = ".metadata"
_BYTES = {
    "float64": 8,
    "int64": 8,
    "float32": 4,
    "int32": 4,
    "float16": 2,
    "bfloat16": 2,
    "uint8": 1,
    "bool": 1,
}
_METADATA = "torch.distributed.checkpoint.metadata"
_RECORDS = {
    (_METADATA, "Metadata"),
    (_METADATA, "MetadataIndex"),
    (_METADATA, "TensorStorageMetadata"),
    (_METADATA, "TensorProperties"),
    (_METADATA, "ChunkStorageMetadata"),
    (_METADATA, "StorageMeta"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
}


class BadIndexError(ValueError):
    """An index that is not one of ours."""


@final
@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor of a checkpoint, whole."""

    shape: tuple[int, ...]
    kind: str
    """Such as float32."""

    @property
    def bytes(self) -> int:
        """Size in memory."""
        return math.prod(self.shape) * _BYTES[self.kind]


class _Record:
    """In place of every class of the index."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _RECORDS:
            return _Record
        if (module, name) == ("torch", "Size"):
            return tuple
        if module == "torch" and name in _BYTES:
            return name
        if (module, name) in ((_METADATA, "_MEM_FORMAT_ENCODING"), ("torch.serialization", "_get_layout")):
            return str
        if (module, name) == ("builtins", "getattr"):  # enum members of some versions of Python
            return _member
        raise BadIndexError(f"its index refers to {module}.{name}")


def _member(_kind: object, name: object) -> str:
    return str(name)


def read_index(url: str) -> Mapping[str, TensorEntry]:
    """Every tensor of a checkpoint by name. Raises ValueError for anything that is not such an index."""
    try:
        entries = _load(url)[0]["state_dict_metadata"]
        return {name: _entry(entries[name].state) for name in sorted(entries)}
    except (AttributeError, KeyError, TypeError) as error:
        raise BadIndexError(f"its index cannot be read ({type(error).__name__}: {error})") from None


def _load(url: str) -> tuple[Mapping[str, Any], Mapping[Any, Any]]:
    """Fields of the index, and where each piece of a tensor is stored."""
    try:
        index = _Reader(io.BytesIO(files.read_bytes(files.join(url, INDEX)))).load()
        return index.state, index.state["storage_data"]
    except (pickle.UnpicklingError, AttributeError, KeyError, TypeError, EOFError, IndexError) as error:
        raise BadIndexError(f"its index cannot be read ({type(error).__name__}: {error})") from None


def check_index(saved: Saved) -> Rejected | None:
    """What is wrong with a checkpoint's index, whose digest may be right; None if nothing is."""
    try:
        index, stored = _load(saved.url)
        tensors = {name: _entry(entry.state) for name, entry in index["state_dict_metadata"].items()}
        sizes = {name: file.bytes for name, file in saved.manifest.files.items()}
        for piece in stored.values():
            fields = piece.state if isinstance(piece.state, Mapping) else {}
            place, end = str(fields["relative_path"]), int(fields["offset"]) + int(fields["length"])
            if place not in sizes or min(fields["offset"], fields["length"]) < 0 or end > sizes[place]:
                raise BadIndexError(f"its index leads to byte {end} of {place!r}, which is not there")
        if not tensors:
            raise BadIndexError("its index has no tensor")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        return Rejected(saved.url, str(error) or type(error).__name__, damaged=True)
    return None


def _entry(state: Mapping[str, Any]) -> TensorEntry:
    properties = state["properties"].state
    kind = properties["dtype"] if isinstance(properties, Mapping) else properties[0]
    shape = tuple(int(size) for size in state["size"])
    if kind not in _BYTES or any(size < 0 for size in shape):
        raise BadIndexError(f"its index has a tensor of {kind} {shape}")
    return TensorEntry(shape, kind)
