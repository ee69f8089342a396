"""The files of a corpus: found, recognised by their names, and cut into units of work."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from launcher import files
from launcher.data.sources import find_files, find_stdlib
from launcher.errors import Problem, UserError

STDLIB = "python-stdlib"
"""As a source: the installed Python's own standard library."""
Format = Literal["text", "jsonl", "parquet"]
FORMATS: tuple[Format, ...] = ("text", "jsonl", "parquet")
_ENDINGS: dict[str, Format] = {
    "txt": "text",
    "text": "text",
    "md": "text",
    "rst": "text",
    "py": "text",
    "jsonl": "jsonl",
    "ndjson": "jsonl",
    "parquet": "parquet",
}
_COMPRESSIONS = {"gz": "gzip", "zst": "zstd", "bz2": "bz2"}
_UNITS = 4096
"""About as many units as a corpus is cut into, where its files allow."""
_LEAST, _MOST = 8 << 20, 1 << 30
"""Bytes of text in a unit."""
_EXPANDS = 4
"""About what compressed files expand to. Only how evenly the work is shared depends on it."""


@dataclass(frozen=True, slots=True)
class RawFile:
    """One file of a corpus."""

    name: str
    """Number of the source and the path below it: the same wherever the corpus is."""
    url: str
    bytes: int
    stamp: str
    """Changes when the file does: time of the last change, or an object store's ETag."""
    format: Format
    compression: str | None

    @property
    def text_bytes(self) -> int:
        """About how much text it holds."""
        return self.bytes * (_EXPANDS if self.compression or self.format == "parquet" else 1)


@dataclass(frozen=True, slots=True)
class Piece:
    """A file, or a part of it: bytes [begin, end) of lines, or row groups of parquet."""

    file: RawFile
    begin: int
    end: int | None
    """None for the whole file."""
    bytes: int


@dataclass(frozen=True, slots=True)
class Unit:
    """What becomes one shard of each split."""

    pieces: tuple[Piece, ...]

    @property
    def bytes(self) -> int:
        """Of text, about."""
        return sum(piece.bytes for piece in self.pieces)

    def identity(self) -> list[object]:
        """What no other unit has, wherever the corpus is."""
        return [[piece.file.name, piece.file.bytes, piece.begin, piece.end] for piece in self.pieces]


def find_raw_files(sources: Sequence[str], format: Format | None) -> list[RawFile]:
    """The files of all sources, in their order. Raises UserError naming every one of an unknown kind."""
    found: list[RawFile] = []
    unknown: Counter[str] = Counter()
    for number, source in enumerate(sources):
        there = find_stdlib() if source == STDLIB else find_files(source)
        for file in there:
            size, stamp = files.stamp(file.url)
            kind = _recognise(file.url, format)
            if kind is None:
                unknown[_ending(file.url)] += 1
                continue
            name = f"{number}/{file.name}"
            found.append(RawFile(name, file.url, size, stamp, *kind))
    if unknown:
        shown = ", ".join(
            f"{count} {'ends' if count == 1 else 'end'} in {ending or 'no ending'}"
            for ending, count in unknown.most_common(5)
        )
        known = ", ".join(f".{ending}" for ending in _ENDINGS)
        remedy = (
            f"known: {known}, each also with .gz, .zst or .bz2; --format text|jsonl|parquet for other names"
        )
        raise UserError(Problem(" ".join(sources), f"of the files, {shown}: unknown", remedy))
    return found


def _ending(url: str) -> str:
    name = url.rsplit("/", 1)[-1]
    return f".{name.rsplit('.', 1)[-1]}" if "." in name else ""


def _recognise(url: str, format: Format | None) -> tuple[Format, str | None] | None:
    parts = url.rsplit("/", 1)[-1].lower().split(".")
    compression = _COMPRESSIONS.get(parts[-1]) if len(parts) > 1 else None
    if compression is not None:
        parts.pop()
    found = format or (_ENDINGS.get(parts[-1]) if len(parts) > 1 else None)
    return None if found is None else (found, compression)


def cut_units(found: Sequence[RawFile]) -> list[Unit]:
    """Small files together, large ones in parts: by the files alone, so that every build cuts alike."""
    target = min(_MOST, max(_LEAST, sum(file.text_bytes for file in found) // _UNITS))
    units: list[Unit] = []
    together: list[Piece] = []
    for file in found:
        pieces = list(_cut_file(file, target))
        if len(pieces) == 1 and pieces[0].bytes < target // 2:
            together += pieces
            if sum(piece.bytes for piece in together) >= target:
                units.append(Unit(tuple(together)))
                together = []
            continue
        if together:
            units.append(Unit(tuple(together)))
            together = []
        units += [Unit((piece,)) for piece in pieces]
    return units + ([Unit(tuple(together))] if together else [])


def _cut_file(file: RawFile, target: int) -> Iterator[Piece]:
    if file.text_bytes < 2 * target or file.format == "text" or (file.compression and file.format == "jsonl"):
        yield Piece(file, 0, None, file.text_bytes)
    elif file.format == "jsonl":
        for begin in range(0, file.bytes, target):
            end = min(begin + target, file.bytes)
            yield Piece(file, begin, end, end - begin)
    else:
        from launcher.corpus.row_readers import row_group_bytes

        begin, size = 0, 0
        sizes = row_group_bytes(file)
        for group, more in enumerate(sizes):
            size += more * _EXPANDS
            if size >= target or group + 1 == len(sizes):
                yield Piece(file, begin, group + 1, size)
                begin, size = group + 1, 0


def part_id(unit: Unit, options: str, dropped: bytes) -> str:
    """Name of a unit's shards: a hash of what decides their content."""
    digest = hashlib.sha256(json.dumps([options, unit.identity()]).encode())
    digest.update(dropped)
    return digest.hexdigest()[:16]
