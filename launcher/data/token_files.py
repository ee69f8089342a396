"""Files of token ids, or of text, that are something else: they would be read as noise. Torch-free."""

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from launcher import files
from launcher.errors import Problem, UserError

MEGATRON = b"MMIDIDX\x00\x00"
_FORMATS = {
    b"\x93NUMPY": "a NumPy array (.npy)",
    b"PK\x03\x04": "a zip archive (.npz, .pt)",
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstandard",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"PAR1": "Parquet",
    b"ARROW1": "Arrow",
    b"\xff\xff\xff\xffP\x01\x00\x00": "Arrow",
    b"\x89HDF\r\n": "HDF5",
    MEGATRON: "Megatron's index (.idx)",
    b"\x80\x04\x95": "a pickle",
}
_ENOUGH = 256
"""Ids from which a pattern in them means something."""


_MARKS = {
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
    b"%PDF-": "PDF",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
}
"""First bytes of what is not UTF-8 text, beside the formats above; longer ones first."""


def _named(head: bytes, formats: Mapping[bytes, str]) -> str | None:
    return next((name for magic, name in formats.items() if head.startswith(magic)), None)


def check_text(url: str) -> None:
    """Raise UserError for a file whose first bytes are not those of text in UTF-8 or a part of it."""
    with files.open_binary(url) as stream:
        head = stream.read(4096)
    name = _named(head, {**_FORMATS, **_MARKS})
    if name is None and len(head) >= 64 and head[1:64:2] == b"\0" * 32:
        name = "UTF-16"
    if name is None:
        return
    remedy = "write it as UTF-8 text" if name.startswith("UTF-") else "give files of text"
    if name.startswith("UTF-"):
        remedy += f", as `iconv -f {name} -t UTF-8` does"
    raise UserError(Problem(url, f"is {name}, not text in UTF-8", remedy, key="data.source.url"))


def check_format(url: str, dtype: str) -> None:
    """Raise UserError for a file whose first bytes are another format's; text is ids of uint8."""
    with files.open_binary(url) as stream:
        head = stream.read(512)
    name = _named(head, _FORMATS)
    if name is None and dtype != "uint8" and len(head) >= 64 and _is_text(head):
        name = "text"
    if name is not None:
        remedy = "write the ids alone, as numpy.ndarray.tofile does"
        if name == "text":
            remedy = "use data.source.type=files for text, or write the ids with numpy.ndarray.tofile"
        raise UserError(Problem(url, f"is {name}, not bare token ids", remedy))


def _is_text(head: bytes) -> bool:
    # 64 bytes of ids of 16 bits that all look like this have odds of 1 to 10^18 and more.
    return all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in head)


def check_width(ids: NDArray[Any], url: str) -> None:
    """Raise UserError where every second id is almost nothing: they were written twice as wide."""
    if ids.itemsize > 2 or len(ids) < _ENOUGH:
        return
    low, high = ids[0 : len(ids) // 2 * 2 : 2], ids[1::2]
    # An id of 70000 in 32 bits is 4464, 1 when read as two of 16; one below 65536 is itself, 0.
    if int(high.max()) <= 1 and int(low.max()) > 16:
        wider = {1: "uint16", 2: "uint32"}[ids.itemsize]
        seen = "0" if int(high.max()) == 0 else "0 or 1"
        message = f"every second id is {seen} when read as {ids.dtype.name}"
        remedy = f"set data.source.dtype={wider}, if it was written so"
        raise UserError(Problem(url, message, remedy, key="data.source.dtype"))
