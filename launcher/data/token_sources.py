"""Sources of token ids: files, flat or of other programs, and data sets of `launch data build`."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from launcher import files
from launcher.data.config import DataConfig, DatasetSource, TokensSource
from launcher.data.dataset import Dataset, Reader, Splits, Tokens, Windows
from launcher.data.ids import IdFile, Stored
from launcher.data.packing import Ends, PackedDocuments
from launcher.data.sources import require_files
from launcher.data.staging_area import staged
from launcher.data.streams import check_lengths
from launcher.data.token_files import check_width
from launcher.data.token_formats import open_token_file
from launcher.data.token_set import SPLITS, TOKEN_BYTES, SplitName, TokenSet, check_vocabulary, read_token_set
from launcher.errors import Problem, UserError

_PROBES = 64
_PROBE_BYTES = 65536


def open_tokens(config: DataConfig, source: TokensSource, reader: Reader) -> Splits:
    """Files of token ids, read where they are."""
    vocab_size = reader.vocab_size
    urls = [source.train] + ([source.validation] if source.validation else [])
    require_files(source.required_files())
    found = [open_token_file(url, source.dtype) for url in urls]
    for url, one in zip(urls, found, strict=True):
        _check_width_holds(url, one.ids, vocab_size)
    windows = [
        Windows(Tokens(one.ids, vocab_size=vocab_size, place=url), config.seq_len)
        for url, one in zip(urls, found, strict=True)
    ]
    train, validation = (
        windows[0],
        windows[1] if source.validation else _no_windows(config.seq_len, vocab_size),
    )
    check_lengths(train, validation, wants_validation=bool(source.validation))
    digest = hashlib.blake2b(found[0].ids.dtype.name.encode(), digest_size=16)
    for window, one in zip(windows, found, strict=True):
        digest.update(f"\0{len(one.ids)}\0".encode())
        _probe(one.ids, window.tokens, digest.update)
    kind = "" if found[0].kind == "flat ids" else f" ({found[0].kind})"
    description = (
        f"{source.train}{kind}: {len(found[0].ids):_} tokens to train on, "
        f"{len(validation.tokens):_} to validate on"
    )
    return Splits(train, validation, digest.hexdigest(), description)


def _check_width_holds(url: str, ids: Stored, vocab_size: int) -> None:
    most = 1 << (8 * ids.dtype.itemsize)
    if vocab_size > most:
        message = f"{ids.dtype.name} holds ids below {most:,}, but model.vocab_size is {vocab_size:,}"
        remedy = "set data.source.dtype to what the file was written with"
        raise UserError(Problem(url, message, remedy, key="data.source.dtype"))


def _no_windows(seq_len: int, vocab_size: int) -> Windows:
    return Windows(
        Tokens(np.empty(0, np.uint8), vocab_size=vocab_size, place="data.source.validation"), seq_len
    )


def _probe(ids: Stored, tokens: Tokens, update: Callable[[bytes], None]) -> None:
    """Check and hash evenly spaced parts, both ends included: all of a small file, some of a large one.

    A wrong dtype or vocabulary shows here; the other ids are checked as they are read.
    """
    # A corpus may be terabytes, and every rank does this at every start: at most 64 parts of 64 KiB are read.
    # An edit between them goes unnoticed, but not a change of the length, which the caller hashes.
    count = min(len(ids), _PROBE_BYTES // ids.dtype.itemsize)
    starts = sorted({int(s) for s in np.linspace(0, len(ids) - count, _PROBES)})
    for start in starts:
        check_width(ids[start : start + count], tokens.place)
        tokens.read(start, count)
        update(ids[start : start + count].tobytes())


def open_dataset(config: DataConfig, source: DatasetSource, reader: Reader) -> Splits:
    """A data set that `launch data build` made: nothing of it is read here but dataset.json."""
    token_set = read_token_set(source.path)
    check_vocabulary(source.path, token_set, reader.vocab_size)
    place = source.path if config.stage is None else staged(source.path, token_set, config.stage)
    tokens = [
        Tokens(
            _stored(place, token_set, split),
            vocab_size=reader.vocab_size,
            place=f"{source.path}, {split}",
            token_bytes=_token_bytes(place, token_set),
        )
        for split in SPLITS
    ]
    windows = [Windows(one, config.seq_len) for one in tokens]
    check_lengths(*windows, wants_validation=len(tokens[1]) > 0)
    description = f"{source.path}: {len(tokens[0]):_} tokens to train on, {len(tokens[1]):_} to validate on"
    samples: Sequence[Dataset] = windows
    if config.documents == "separate":
        fill = token_set.tokenizer.end_of_text
        samples = [
            PackedDocuments(one, _ends(place, token_set, split), config.seq_len, fill)
            for one, split in zip(tokens, SPLITS, strict=True)
        ]
    return Splits(samples[0], samples[1], token_set.fingerprint, description, token_set.tokenizer.sha256)


def _ends(place: str, token_set: TokenSet, split: SplitName) -> Ends:
    kind = np.dtype("<i8")
    return Ends(
        [
            (
                shard.tokens,
                Stored([IdFile(files.join(place, f"{shard.name}.idx"), kind, shard.documents)], kind),
            )
            for shard in token_set.splits[split].shards
        ]
    )


def _stored(place: str, token_set: TokenSet, split: SplitName) -> Stored:
    dtype = np.dtype(token_set.dtype).newbyteorder("<")
    shards = token_set.splits[split].shards
    return Stored([IdFile(files.join(place, f"{s.name}.bin"), dtype, s.tokens) for s in shards], dtype)


def _token_bytes(place: str, token_set: TokenSet) -> NDArray[Any] | None:
    if token_set.tokenizer.type == "bytes":
        return np.ones(256, dtype=np.uint32)
    url = files.join(place, TOKEN_BYTES)
    return np.frombuffer(files.read_bytes(url), dtype="<u4") if files.is_file(url) else None
