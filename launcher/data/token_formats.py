"""Files of token ids of other programs, read in place: flat, llm.c's, Megatron's .bin and .idx."""

import struct
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from launcher import files
from launcher.data.ids import IdFile, Stored
from launcher.data.token_files import MEGATRON, check_format
from launcher.errors import Problem, UserError

# (magic, version) -> ids, of the 256 int32 that train_gpt2.c and train_llama3.c of karpathy/llm.c read first.
_LLMC = {(20240520, 1): "uint16", (20240801, 7): "uint32"}
_LLMC_BYTES = 1024
# megatron/core/datasets/indexed_dataset.py, class DType; negative ids become too large ones, and are refused.
_MEGATRON_DTYPES = {1: "uint8", 3: "uint16", 4: "uint32", 8: "uint16"}


@final
@dataclass(frozen=True, slots=True)
class TokenFile:
    """An open file of ids."""

    ids: Stored
    kind: str
    """The format, for people."""
    ends: NDArray[np.int64] | None
    """The position after the last token of each document; None where the file does not say."""


def open_token_file(url: str, dtype: str | None) -> TokenFile:
    """Recognise a file by its first bytes and its neighbours. Raises UserError for one that is damaged, of
    another kind, or whose ids are not of `dtype`; None takes the file's own, uint16 for a flat one."""
    with files.open_binary(url) as stream:
        head = stream.read(12)
    magic = struct.unpack("<iii", head) if len(head) == 12 else (0, 0, 0)
    if magic[0] in {number for number, _ in _LLMC}:
        return _open_llmc(url, dtype, *magic)
    index = url.removesuffix(".bin") + ".idx"
    if url.endswith(".bin") and files.is_file(index) and _begins(index, MEGATRON):
        return _open_megatron(url, dtype, index)
    check_format(url, dtype or "uint16")
    return _open_flat(url, np.dtype(dtype or "uint16").newbyteorder("<"))


def _begins(url: str, magic: bytes) -> bool:
    with files.open_binary(url) as stream:
        return stream.read(len(magic)) == magic


def _open_flat(url: str, dtype: np.dtype[Any]) -> TokenFile:
    size = files.size(url)
    if size % dtype.itemsize:
        message = f"{size} bytes are not a whole number of {dtype.name} tokens"
        remedy = "set data.source.dtype to what the file was written with"
        raise UserError(Problem(url, message, remedy, key="data.source.dtype"))
    part = IdFile(url, dtype, size // dtype.itemsize)
    return TokenFile(Stored([part], dtype), "flat ids", None)


def _open_llmc(url: str, asked: str | None, magic: int, version: int, count: int) -> TokenFile:
    name = _LLMC.get((magic, version))
    if name is None:
        known = ", ".join(f"{number} version {kind}" for number, kind in _LLMC)
        message = f"is llm.c's format {magic} version {version}"
        raise UserError(Problem(url, message, f"known: {known}", key="data.source"))
    dtype = _agreed(url, asked, name)
    wanted = _LLMC_BYTES + count * dtype.itemsize
    if files.size(url) != wanted:
        message = f"has {files.size(url):,} bytes; its header says {count:,} tokens, {wanted:,} bytes"
        raise UserError(Problem(url, message, "copy it again", key="data.source"))
    part = IdFile(url, dtype, count, _LLMC_BYTES)
    return TokenFile(Stored([part], dtype), "llm.c's ids with a header", None)


def _open_megatron(url: str, asked: str | None, index: str) -> TokenFile:
    content = files.read_bytes(index)
    # magic, version uint64, dtype uint8, sequences uint64, documents uint64; then int32 lengths, int64 places
    # in bytes, and int64 numbers of the sequence with which each document begins, and the end.
    try:
        version, code, sequences, documents = struct.unpack_from("<QBQQ", content, 9)
        lengths = np.frombuffer(content, "<i4", sequences, 34)
        places = np.frombuffer(content, "<i8", sequences, 34 + 4 * sequences)
        firsts = np.frombuffer(content, "<i8", documents, 34 + 12 * sequences)
    except (struct.error, ValueError):
        raise UserError(Problem(index, "is cut off", "copy it again", key="data.source")) from None
    if version != 1 or code not in _MEGATRON_DTYPES:
        message = f"has version {version} and ids of type {code}"
        remedy = "known: version 1 with types 1, 3, 4 and 8"
        raise UserError(Problem(index, message, remedy, key="data.source"))
    dtype = _agreed(url, asked, _MEGATRON_DTYPES[code])
    ends = np.cumsum(lengths, dtype=np.int64)
    count = int(ends[-1]) if len(ends) else 0
    consecutive = np.array_equal(places, (ends - lengths) * dtype.itemsize)
    if not consecutive or files.size(url) != count * dtype.itemsize:
        message = (
            f"has {files.size(url):,} bytes; {index} says {count:,} tokens, {count * dtype.itemsize:,} bytes"
        )
        raise UserError(Problem(url, message, "copy both again", key="data.source"))
    # A document of several sequences ends with the last of them.
    of_documents = ends[firsts[1:][firsts[1:] > 0] - 1]
    return TokenFile(Stored([IdFile(url, dtype, count)], dtype), "Megatron's .bin and .idx", of_documents)


def _agreed(url: str, asked: str | None, own: str) -> np.dtype[Any]:
    if asked not in (None, own):
        message = f"has ids of {own}, and data.source.dtype is {asked}"
        raise UserError(Problem(url, message, "leave data.source.dtype out", key="data.source.dtype"))
    return np.dtype(own).newbyteorder("<")
