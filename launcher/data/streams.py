"""Text as one long stream, cut into windows."""

import hashlib

import numpy as np

from launcher import files
from launcher.data.config import DataConfig, FilesSource, StdlibSource
from launcher.data.dataset import Reader, Splits, Tokens, Windows
from launcher.data.sources import SourceFile, find_files, find_stdlib
from launcher.data.words import Vocabulary, WordWindows, number_words
from launcher.errors import Problem, UserError

SEPARATOR = b"\0"
"""Follows each file of a text source, so that a model sees where the file ends; it counts as a token."""


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
    check_lengths(train, validation, wants_validation=any(is_validation))
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
    return Tokens(ids, vocab_size=vocab_size, place=place, token_bytes=np.ones(256, dtype=np.uint32))


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


def check_lengths(train: Windows, validation: Windows, *, wants_validation: bool) -> None:
    """Raise UserError for a split that has no window."""
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
