"""Sources that are one long stream, cut into windows: text, and files of token ids."""

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from launcher import files
from launcher.data.config import DataConfig, FilesSource, StdlibSource, TokensSource
from launcher.data.dataset import Reader, Splits, Tokens, Windows
from launcher.data.sources import SourceFile, find_files, find_stdlib, require_files
from launcher.data.token_files import check_format, check_width
from launcher.data.words import Vocabulary, WordWindows, number_words
from launcher.errors import Problem, UserError

SEPARATOR = b"\0"
"""Follows each file of a text source, so that a model sees where the file ends; it counts as a token."""

_PROBES = 64
_PROBE_BYTES = 65536


def open_stdlib(config: DataConfig, source: StdlibSource, reader: Reader) -> Splits:
    """The source code of Python's own standard library."""
    return _open_text(config, source.unit, reader, find_stdlib(), source.type)


def open_files(config: DataConfig, source: FilesSource, reader: Reader) -> Splits:
    """Text files under a URL."""
    return _open_text(config, source.unit, reader, find_files(source.url), source.url)


def _open_text(config: DataConfig, unit: str, reader: Reader, found: list[SourceFile], place: str) -> Splits:
    is_validation = split_files(found, config.fraction_for_validation)

    # Name and length are hashed before the content, so that text moved from one file to the next changes the
    # fingerprint; the split too, because a resume must not train on what it validated on.
    digest = hashlib.blake2b(digest_size=16)
    parts: dict[bool, list[bytes]] = {False: [], True: []}
    for file, in_validation in zip(found, is_validation, strict=True):
        content = _read(file.url)
        digest.update(f"{file.name}\0{len(content)}\0{in_validation}\0".encode(errors="surrogateescape"))
        digest.update(content)
        parts[in_validation] += [content, SEPARATOR]

    vocabulary: Vocabulary | None = None
    if unit == "words":
        words, *streams = number_words(parts[False], parts[True])
        vocabulary = Vocabulary(words, vocab_size=reader.vocab_size, max_chars=reader.max_chars)
        tokens = [Tokens(stream, vocab_size=len(words), place=place) for stream in streams]
        # The rule that cuts text into words may change in a later version. The resulting vocabulary is hashed
        # too: with other numbers for its words, a trained embedding would be wrong.
        digest.update(f"\0words\0{reader.vocab_size}\0{reader.max_chars}\0".encode())
        digest.update(b"\n".join(words[: vocabulary.num_known]))
    else:
        tokens = [_byte_tokens(parts[validation], reader.vocab_size, place) for validation in (False, True)]
    train, validation = (Windows(part, config.seq_len) for part in tokens)
    _check_lengths(train, validation, wants_validation=any(is_validation))
    description = (
        f"{place}: {len(found)} files, {len(train.tokens):_} {unit} to train on, "
        f"{len(validation.tokens):_} to validate on, in {sum(is_validation)} files"
    )
    if vocabulary is None:
        return Splits(train, validation, digest.hexdigest(), description)
    description += f"; {vocabulary.num_known:_} of {len(vocabulary.words):_} different words have a number"
    samples = [WordWindows(windows, vocabulary) for windows in (train, validation)]
    return Splits(samples[0], samples[1], digest.hexdigest(), description)


def _read(url: str) -> bytes:
    local = files.local_path(url)
    if local is None:
        return files.read_bytes(url)
    # For thousands of small files this takes a quarter of the time that fsspec does.
    return local.read_bytes()


def _byte_tokens(parts: list[bytes], vocab_size: int, place: str) -> Tokens:
    ids = np.frombuffer(b"".join(parts), dtype=np.uint8)
    if len(ids) and int(ids.max()) >= vocab_size:
        message = f"holds byte {ids.max()}; model.vocab_size is {vocab_size}"
        remedy = "set model.vocab_size to 256, one for each byte"
        raise UserError(Problem(place, message, remedy, key="model.vocab_size"))
    return Tokens(ids, vocab_size=vocab_size, place=place)


def split_files(found: list[SourceFile], fraction: float) -> list[bool]:
    """Which files are to validate on. Raises UserError where there are none, or all are."""
    positions = [_split_position(file.name) for file in found]
    is_validation = [position < fraction for position in positions]
    _check_split(found, positions, is_validation, fraction)
    return is_validation


def _split_position(name: str) -> float:
    """Where in [0, 1) a file's name hashes to; below the validation fraction it is a validation file."""
    # By the name alone, without a seed or the other names: files added later do not move any across the
    # split, and a larger fraction keeps every validation file. The fraction of files is met only on average.
    return (
        int.from_bytes(hashlib.blake2b(name.encode(errors="surrogateescape"), digest_size=8).digest()) / 2**64
    )


def _check_split(
    found: list[SourceFile], positions: list[float], is_validation: list[bool], fraction: float
) -> None:
    if fraction > 0 and not any(is_validation):
        least = min(positions)
        remedy = "set data.validation_fraction=0, or add files"
        if len(found) > 1:
            enough = np.ceil(least * 100 + 1e-9) / 100
            remedy = (
                f"set data.validation_fraction={enough:.2f} to keep one of {len(found)} files, or 0 for none"
            )
        raise UserError(
            Problem.at("data.validation_fraction", f"{fraction} keeps none of {len(found)} files", remedy)
        )
    if all(is_validation):
        message = f"{fraction} keeps all {len(found)} files, and leaves none to train on"
        raise UserError(
            Problem.at("data.validation_fraction", message, "set a smaller fraction, or add files")
        )


def _check_lengths(train: Windows, validation: Windows, *, wants_validation: bool) -> None:
    wanted = [("to train on", train)] + ([("to validate on", validation)] if wants_validation else [])
    problems = [
        Problem.at(
            "data.seq_len",
            f"{w.seq_len} needs {w.seq_len + 1} tokens for one window; {len(w.tokens)} are {use}",
            f"set data.seq_len to at most {len(w.tokens) - 1}, or add data"
            if len(w.tokens) > 1
            else "add data",
        )
        for use, w in wanted
        if w.num_samples < 1
    ]
    if problems:
        raise UserError(*problems)


def open_tokens(config: DataConfig, source: TokensSource, reader: Reader) -> Splits:
    """Flat files of token ids, memory-mapped where they are local."""
    vocab_size = reader.vocab_size
    urls = [source.train] + ([source.validation] if source.validation else [])
    require_files(source.required_files())
    dtype = np.dtype(source.dtype).newbyteorder("<")
    for url in urls:
        check_format(url, source.dtype)
    ids = [_map_tokens(url, dtype) for url in urls]
    windows = [
        Windows(Tokens(i, vocab_size=vocab_size, place=url), config.seq_len)
        for url, i in zip(urls, ids, strict=True)
    ]
    train, validation = (
        windows[0],
        windows[1] if source.validation else _no_windows(config.seq_len, vocab_size),
    )
    _check_lengths(train, validation, wants_validation=bool(source.validation))
    digest = hashlib.blake2b(source.dtype.encode(), digest_size=16)
    for window, i in zip(windows, ids, strict=True):
        digest.update(f"\0{len(i)}\0".encode())
        _probe(i, window.tokens, digest.update)
    description = (
        f"{source.train}: {len(ids[0]):_} tokens to train on, {len(validation.tokens):_} to validate on"
    )
    return Splits(train, validation, digest.hexdigest(), description)


def _map_tokens(url: str, dtype: np.dtype[Any]) -> NDArray[Any]:
    size = files.size(url)
    if size % dtype.itemsize:
        message = f"{size} bytes are not a whole number of {dtype.name} tokens"
        remedy = "set data.source.dtype to what the file was written with"
        raise UserError(Problem(url, message, remedy, key="data.source.dtype"))
    path = files.local_path(url)
    if path is None:
        return np.frombuffer(files.read_bytes(url), dtype=dtype)
    # An empty file cannot be memory-mapped; _check_lengths has the better message for it.
    return np.memmap(path, dtype=dtype, mode="r") if size else np.empty(0, dtype)


def _no_windows(seq_len: int, vocab_size: int) -> Windows:
    return Windows(
        Tokens(np.empty(0, np.uint8), vocab_size=vocab_size, place="data.source.validation"), seq_len
    )


def _probe(ids: NDArray[Any], tokens: Tokens, update: Callable[[bytes], None]) -> None:
    """Check and hash evenly spaced parts, both ends included: all of a small file, some of a large one.

    A wrong dtype or vocabulary shows here; the other ids are checked as they are read.
    """
    # A corpus may be terabytes, and every rank does this at every start: at most 64 parts of 64 KiB are read.
    # An edit between them goes unnoticed, but not a change of the length, which the caller hashes.
    count = min(len(ids), _PROBE_BYTES // ids.itemsize)
    starts = sorted({int(s) for s in np.linspace(0, len(ids) - count, _PROBES)})
    for start in starts:
        check_width(ids[start : start + count], tokens.place)
        tokens.read(start, count)
        update(ids[start : start + count].tobytes())
