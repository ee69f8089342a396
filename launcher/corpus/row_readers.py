"""The documents of a unit, in order; the only door to pyarrow, which reads parquet and compressed files."""

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

from launcher import files
from launcher.corpus.raw_files import Piece, RawFile
from launcher.data.text_tokenizer import INSTALL
from launcher.errors import Problem, UserError

_BUFFER = 4 << 20
_ROWS = 1024
_FIELDS = ("text", "content")
"""Names of the field with the text, where none is given: the first that the data have."""


@dataclass(frozen=True, slots=True)
class Document:
    """One text."""

    text: str
    utf8: bytes


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that is not a document."""

    place: str
    reason: str


class DamagedFileError(Exception):
    """A file that cannot be read to its end: (place, what is wrong)."""


def read_documents(pieces: Sequence[Piece], field: str, most: int) -> Iterator[Document | BadRow]:
    """Every row of the pieces. Raises DamagedFileError for a file that is cut off or damaged.

    Of a file of text with more than `most` bytes only the first `most` + 1 are read.
    """
    for piece in pieces:
        if piece.file.format == "text":
            yield _read_text(piece, most)
        else:
            yield from (_read_lines if piece.file.format == "jsonl" else _read_parquet)(piece, field)


def _document(value: object, place: str, field: str) -> Document | BadRow:
    if not isinstance(value, str):
        return BadRow(place, f"{field} is {_kind(value)}, not text")
    try:
        return Document(value, value.encode())
    except UnicodeEncodeError:
        return BadRow(place, f"{field} is half of a character, which UTF-8 cannot hold")


def _kind(value: object) -> str:
    kinds = {bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return "null" if value is None else kinds.get(type(value), type(value).__name__)


def _read_text(piece: Piece, most: int) -> Document | BadRow:
    with _open(piece.file) as stream:
        content = _guarded(lambda: stream.read(most + 1), piece.file, "")
    if len(content) > most:  # too long, whatever is in it: it may end within a character
        return Document("", content)
    try:
        return Document(content.decode(), content)
    except UnicodeDecodeError as error:
        return BadRow(piece.file.url, f"byte {error.start} is not UTF-8")


def _read_lines(piece: Piece, field: str) -> Iterator[Document | BadRow]:
    at = piece.begin
    since = f" after byte {piece.begin}" if piece.begin else ""
    with _open(piece.file) as stream:
        if piece.begin:
            # The line that spans the border is the part's in which it begins.
            stream.seek(piece.begin - 1)
            at += len(stream.readline()) - 1
        row = 0
        while piece.end is None or at < piece.end:
            line = _guarded(stream.readline, piece.file, f"after row {row}{since}")
            if not line:
                return
            row, at = row + 1, at + len(line)
            if line.strip():
                yield _parse(line, f"{piece.file.url}, row {row}{since}", field)


def _parse(line: bytes, place: str, field: str) -> Document | BadRow:
    try:
        found = json.loads(line)
    except UnicodeDecodeError as error:
        return BadRow(place, f"byte {error.start} is not UTF-8")
    except (ValueError, RecursionError) as error:
        return BadRow(place, f"is not JSON: {error}")
    if not isinstance(found, dict):
        return BadRow(place, f"is {_kind(found)}, not an object")
    if field not in found:
        return BadRow(place, f"has no field {field!r}; it has {_listed(found)}")
    return _document(found[field], place, field)


def _listed(names: Sequence[str] | dict[str, Any]) -> str:
    shown = list(names)
    return (", ".join(shown[:8]) + (f" and {len(shown) - 8} more" if len(shown) > 8 else "")) or "nothing"


def _read_parquet(piece: Piece, field: str) -> Iterator[Document | BadRow]:
    with _open_parquet(piece.file) as table:
        if field not in table.schema_arrow.names:
            columns = _listed(table.schema_arrow.names)
            raise DamagedFileError(piece.file.url, f"has no column {field!r}; it has {columns}")
        groups = range(piece.begin, table.num_row_groups if piece.end is None else piece.end)
        row = sum(table.metadata.row_group(group).num_rows for group in range(piece.begin))
        batches = table.iter_batches(batch_size=_ROWS, row_groups=list(groups), columns=[field])
        while (batch := _guarded(lambda: next(batches, None), piece.file, f"after row {row}")) is not None:
            for value in batch.column(0).to_pylist():
                row += 1
                yield _document(value, f"{piece.file.url}, row {row}", field)


def _guarded(read: Any, file: RawFile, where: str) -> Any:
    """What a read returns; damage as DamagedFileError."""
    try:
        return read()
    except (OSError, EOFError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        what = " ".join(str(error).split())[:200]
        if "runcated" in what or isinstance(error, EOFError):
            what = f"is cut off ({what})"
        raise DamagedFileError(file.url + (f", {where}" if where else ""), what) from None


def _open(file: RawFile) -> IO[bytes]:
    raw = files.open_binary(file.url)
    if file.compression is None:
        return raw
    # Not gzip and zstandard of the same names: this one notices a zstd stream that is cut off, and reads gzip
    # twice as fast. All read several streams in one file.
    arrow = _library()
    return io.BufferedReader(
        arrow.CompressedInputStream(arrow.PythonFile(raw, "r"), file.compression), _BUFFER
    )


def _open_parquet(file: RawFile) -> Any:
    if file.compression is not None:
        remedy = "decompress it; parquet compresses its own pages"
        raise UserError(Problem(file.url, f"is parquet inside {file.compression}", remedy))
    import pyarrow.parquet

    stream = files.open_binary(file.url)
    return _guarded(lambda: pyarrow.parquet.ParquetFile(stream), file, "")


def row_group_bytes(file: RawFile) -> list[int]:
    """Compressed size of each row group."""
    with _open_parquet(file) as table:
        groups = [table.metadata.row_group(number) for number in range(table.num_row_groups)]
        return [
            sum(group.column(number).total_compressed_size for number in range(group.num_columns))
            for group in groups
        ]


def choose_field(found: Sequence[RawFile], wanted: str | None) -> str:
    """The name of the field with the text, by the first file with fields. Raises UserError if unclear."""
    with_fields = [file for file in found if file.format != "text"]
    if not with_fields:
        if wanted is not None:
            message = "names a field, and text files have none"
            raise UserError(Problem(f"--field {wanted}", message, "leave it out"))
        return _FIELDS[0]
    first, names = _first_names(with_fields)
    candidates = [wanted] if wanted is not None else list(_FIELDS)
    for name in candidates:
        if name in names:
            return name
    message = f"has no field {' or '.join(map(repr, candidates))}; it has {_listed(names)}"
    raise UserError(Problem(first.url, message, "name the field with the text: --field NAME"))


def _first_names(found: Sequence[RawFile]) -> tuple[RawFile, list[str]]:
    problems = []
    for file in found:
        try:
            return file, _field_names(file)
        except DamagedFileError as error:
            problems.append(Problem(error.args[0], error.args[1], "replace the file, or leave it out"))
    raise UserError(*problems)


def _field_names(file: RawFile) -> list[str]:
    if file.format == "parquet":
        with _open_parquet(file) as table:
            return list(table.schema_arrow.names)
    with _open(file) as stream:
        for number in range(100):
            line = _guarded(stream.readline, file, f"after row {number}")
            try:
                found = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(found, dict):
                return list(found)
    raise DamagedFileError(file.url, "none of the first 100 rows is a JSON object")


def _library() -> Any:
    try:
        import pyarrow
    except ImportError:
        raise UserError(Problem("pyarrow", "is not installed", INSTALL)) from None
    return pyarrow
