"""One unit of a build: its documents counted, split, tokenized and written as shards. Runs in a worker."""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import final

import numpy as np
from numpy.typing import NDArray

from launcher import files
from launcher.corpus.raw_files import Unit
from launcher.corpus.row_readers import BadRow, DamagedFileError, Document, read_documents
from launcher.data.text_tokenizer import TextTokenizer, open_text_tokenizer
from launcher.data.token_set import SPLITS, Record, Rows, Shard, SplitName
from launcher.errors import Problem, UserError

_BATCH_BYTES, _BATCH_DOCUMENTS = 1 << 20, 512
_SHOWN_BAD = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What decides which tokens come out, besides the sources."""

    tokenizer: str
    """URL, or bytes."""
    end_of_text: str | None
    field: str
    validation_fraction: float
    max_document_bytes: int
    dtype: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One unit to be made."""

    unit: Unit
    id: str
    out: Path
    options: Options
    dropped: bytes = b""
    """Numbers of its documents that are duplicates of earlier ones, int64."""


@final
class Part(Record):
    """What a unit has become; its file is written after its shards."""

    rows: Rows
    bad_rows: list[str]
    shards: dict[SplitName, Shard]
    """By split; a split without documents has none."""
    stamps: list[str]
    """Of the files, when they were read."""


def hash_documents(task: Task, slot: int) -> bytes | Problem:
    """16 bytes for each document of a unit that is long enough and not too long."""
    keys = []
    try:
        for found in read_documents(task.unit.pieces, task.options.field, task.options.max_document_bytes):
            if isinstance(found, Document) and 0 < len(found.utf8) <= task.options.max_document_bytes:
                keys.append(_key(found.utf8))
    except (DamagedFileError, UserError, OSError) as error:
        return damage(error, task.out)
    return b"".join(keys)


def make_part(task: Task, slot: int) -> Part | Problem:
    """Write a unit's shards; the caller records the part. Problem: a file of the unit is damaged."""
    with ExitStack() as stack:
        writers = {
            split: stack.enter_context(_ShardWriter(task.out, f"{split}-{task.id}", task.options.dtype))
            for split in SPLITS
        }
        counts = dict.fromkeys(Rows.model_fields, 0)
        bad: list[str] = []
        tokenizer = _open(task.options.tokenizer, task.options.end_of_text)
        kept = _kept(task, counts, bad)
        try:
            # The next documents are read while these are tokenized, which frees the interpreter.
            with ThreadPoolExecutor(1) as reader:
                ahead = reader.submit(_take, kept)
                while batch := ahead.result():
                    ahead = reader.submit(_take, kept)
                    _write(batch, tokenizer, writers, task.options.validation_fraction)
        except (DamagedFileError, UserError, OSError) as error:
            return damage(error, task.out)
        shards = {split: shard for split in SPLITS if (shard := writers[split].publish()) is not None}
    stamps = [piece.file.stamp for piece in task.unit.pieces]
    return Part(rows=Rows(**counts), bad_rows=bad[:_SHOWN_BAD], shards=shards, stamps=stamps)


@cache
def _open(url: str, end_of_text: str | None) -> TextTokenizer:
    return open_text_tokenizer(url, end_of_text)


def damage(error: DamagedFileError | UserError | OSError, out: object) -> Problem:
    """What a user is told of a file that cannot be read, or written."""
    if isinstance(error, UserError):
        return error.problems[0]
    if isinstance(error, OSError):
        place = str(error.filename or out)
        remedy = "make room or correct it, then call the same command again; what is finished stays"
        return Problem(place, str(error.strerror or error), remedy)
    place, what = error.args
    return Problem(place, what, "replace the file or leave it out, then call the same command again")


def _key(utf8: bytes) -> bytes:
    return hashlib.blake2b(utf8, digest_size=16).digest()


def is_validation(utf8: bytes, fraction: float) -> bool:
    """Whether a document is to validate on: by its text alone, so that no other document moves it."""
    return int.from_bytes(_key(utf8)[:8]) < fraction * 2**64


def _kept(task: Task, counts: dict[str, int], bad: list[str]) -> Iterator[Document]:
    """The documents that become tokens; counts all others."""
    dropped = set(np.frombuffer(task.dropped, dtype=np.int64).tolist())
    number = -1
    for found in read_documents(task.unit.pieces, task.options.field, task.options.max_document_bytes):
        counts["read"] += 1
        if isinstance(found, BadRow):
            counts["bad"] += 1
            if len(bad) < _SHOWN_BAD:
                bad.append(f"{found.place}: {found.reason}")
        elif not found.utf8:
            counts["empty"] += 1
        elif len(found.utf8) > task.options.max_document_bytes:
            counts["too_long"] += 1
        else:
            number += 1
            if number in dropped:
                counts["duplicates"] += 1
            else:
                counts["kept"] += 1
                yield found


def _take(documents: Iterator[Document]) -> list[Document]:
    batch: list[Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document.utf8)
        if size >= _BATCH_BYTES or len(batch) >= _BATCH_DOCUMENTS:
            break
    return batch


def _write(
    batch: Sequence[Document],
    tokenizer: TextTokenizer,
    writers: Mapping[SplitName, "_ShardWriter"],
    fraction: float,
) -> None:
    ids = tokenizer.encode([document.text for document in batch])
    for document, numbers in zip(batch, ids, strict=True):
        split = SPLITS[is_validation(document.utf8, fraction)]
        writers[split].add(numbers, tokenizer.end_of_text, len(document.utf8))


@final
class _ShardWriter:
    """The files of one shard: written under another name, and renamed when whole."""

    def __init__(self, folder: Path, name: str, dtype: str) -> None:
        self._folder, self._name = folder, name
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._partial = folder / f".partial-{name}.{os.getpid()}"
        self._ends: list[int] = []
        self._tokens = self._bytes = 0
        self._digest = hashlib.sha256()

    def __enter__(self) -> "_ShardWriter":
        self._stream = open(self._partial, "wb")
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        self._partial.unlink(missing_ok=True)

    def add(self, ids: NDArray[np.integer], end_of_text: int, size: int) -> None:
        """Append one document, and the token that ends it."""
        content = np.append(ids, end_of_text).astype(self._dtype).tobytes()
        self._stream.write(content)
        self._digest.update(content)
        self._tokens += len(ids) + 1
        self._ends.append(self._tokens)
        self._bytes += size

    def publish(self) -> Shard | None:
        """Give the files their names; None where there is no document."""
        if not self._ends:
            return None
        self._stream.flush()
        os.fsync(self._stream.fileno())
        index = np.array(self._ends, dtype="<i8").tobytes()
        files.write_bytes(str(self._folder / f"{self._name}.idx"), index)
        os.replace(self._partial, self._folder / f"{self._name}.bin")
        files.sync_folder(self._folder)
        return Shard(
            name=self._name,
            tokens=self._tokens,
            documents=len(self._ends),
            bytes=self._bytes,
            sha256=self._digest.hexdigest(),
            index_sha256=hashlib.sha256(index).hexdigest(),
        )
