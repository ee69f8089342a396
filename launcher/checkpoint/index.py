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
        index = _Reader(io.BytesIO(files.read_bytes(files.join(url, INDEX)))).load()
        entries = index.state["state_dict_metadata"]
        return {name: _entry(entries[name].state) for name in sorted(entries)}
    except (pickle.UnpicklingError, AttributeError, KeyError, TypeError, EOFError, IndexError) as error:
        raise BadIndexError(f"its index cannot be read ({type(error).__name__}: {error})") from None


def _entry(state: Mapping[str, Any]) -> TensorEntry:
    properties = state["properties"].state
    kind = properties["dtype"] if isinstance(properties, Mapping) else properties[0]
    shape = tuple(int(size) for size in state["size"])
    if kind not in _BYTES or any(size < 0 for size in shape):
        raise BadIndexError(f"its index has a tensor of {kind} {shape}")
    return TensorEntry(shape, kind)
