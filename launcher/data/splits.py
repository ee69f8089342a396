"""Open a source: the train and validation splits, and a fingerprint of both."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from launcher import files
from launcher.data.config import (
    CopyingSource,
    DataConfig,
    DigitsSource,
    FilesSource,
    GeneratedSource,
    LabelledSource,
    ListOpsSource,
    RecallSource,
    Source,
    TextSource,
    TokensSource,
    task_shape,
)
from launcher.data.dataset import Dataset, Tokens, Windows
from launcher.data.digits import open_digits
from launcher.data.labelled import open_labelled
from launcher.data.listops import ListOps
from launcher.data.order import NO_END
from launcher.data.sources import SPLIT_KEYS, SourceFile, find_source_files, require_files
from launcher.data.synthetic import Copying, Recall
from launcher.data.words import Vocabulary, WordWindows, number_words
from launcher.errors import Problem, UserError, about

SEPARATOR = b"\0"
"""Follows each file of a text source, so that a model sees where one ends; it counts as a token."""

_PROBES = 64
_PROBE_BYTES = 65536


@final
@dataclass(frozen=True, slots=True)
class Splits:
    """A source, opened."""

    train: Dataset
    validation: Dataset
    """Disjoint from train; has no samples where there is no validation."""
    fingerprint: str
    """Hash of the names, sizes and content read, so that a resume on other data is noticed."""
    description: str
    """One line for people."""


@about("data.source")
def open_splits(config: DataConfig, vocab_size: int | None, max_chars: int | None = None) -> Splits:
    """Read, map or set up a source. Raises UserError for what is missing, too short or unfit for the model.

    `vocab_size` is the model's, None where it has none; `max_chars` what it reads of each word, None where it
    reads no characters.
    """
    source = config.source
    vocab_size = _check_inputs(source, vocab_size, max_chars)
    match source:
        case TokensSource():
            return _open_tokens(config, source, vocab_size)
        case DigitsSource():
            return _open_digits(source)
        case LabelledSource():
            train, validation, fingerprint = open_labelled(source, config.seq_len, max_chars)
            noun = "pairs" if source.num_sequences == 2 else "sequences"
            described = f"{train.num_samples:_} {noun} to train on, {validation.num_samples:_} to validate on"
            return Splits(train, validation, fingerprint, f"{source.train}: {described}")
        case ListOpsSource() | CopyingSource() | RecallSource():
            return _open_generated(config, source)
        case _:
            return _open_text(config, source, vocab_size, max_chars)


_READS = {
    "tokens": "embeds tokens",
    "words": "reads the characters of words",
    "signals": "takes signals",
}


def _check_inputs(source: Source, vocab_size: int | None, max_chars: int | None) -> int:
    """Whether the model takes what the source gives; returns a vocabulary size, 0 where it has none."""
    shape = task_shape(source)
    reads = "words" if max_chars is not None else "signals" if vocab_size is None else "tokens"
    if reads not in shape.inputs:
        message = f"`{source.type}` gives {' or '.join(shape.inputs)}; the model {_READS[reads]}"
        remedy = "choose a model that " + " or ".join(_READS[kind] for kind in shape.inputs)
        raise UserError(Problem.at("data.source.type", message, remedy))
    if vocab_size is None:
        return 0
    # A text may do with fewer than all 256 bytes; what it holds is checked as it is read.
    if not isinstance(source, TextSource) and vocab_size < (shape.vocab_size or 0):
        message = f"{vocab_size} is too few: `{source.type}` has {shape.vocab_size} symbols"
        raise UserError(Problem.at("model.vocab_size", message, f"set it to at least {shape.vocab_size}"))
    return vocab_size


def _open_generated(config: DataConfig, source: GeneratedSource) -> Splits:
    samples = [_generated(source, config.seq_len, validation) for validation in (False, True)]
    # Under the name that this key had at first: the same data keep the same fingerprint.
    identity = source.model_dump_json().replace('"validation_samples"', '"held_out_samples"')
    digest = hashlib.blake2b(identity.encode(), digest_size=16)
    for one in samples:  # a change of the generator shows too
        first = one.batch(np.arange(4))
        digest.update(first.x.numpy().tobytes() + first.y.numpy().tobytes())
    count = samples[0].num_samples
    described = "new sequences without end" if count == NO_END else f"{count:_} sequences to train on"
    return Splits(samples[0], samples[1], digest.hexdigest(), f"{source.type}: {described}")


def _generated(source: GeneratedSource, seq_len: int, validation: bool) -> Dataset:
    match source:
        case ListOpsSource():
            return ListOps(source, seq_len=seq_len, validation=validation)
        case CopyingSource():
            return Copying(source, seq_len=seq_len, validation=validation)
        case RecallSource():
            return Recall(source, seq_len=seq_len, validation=validation)


def _open_digits(source: DigitsSource) -> Splits:
    train, validation = open_digits(source)
    digest = hashlib.blake2b(digest_size=16)
    for part in (train, validation):
        digest.update(part.signals.tobytes() + part.labels.tobytes())
    description = f"digits: {train.num_samples} images to train on, {validation.num_samples} to validate on"
    return Splits(train, validation, digest.hexdigest(), description)


def _open_text(config: DataConfig, source: TextSource, vocab_size: int, max_chars: int | None) -> Splits:
    found = find_source_files(source)
    place = source.url if isinstance(source, FilesSource) else source.type
    shares = [_share_of(file.name) for file in found]
    held = [share < config.fraction_for_validation for share in shares]
    _check_split(found, shares, held, config.fraction_for_validation)

    digest = hashlib.blake2b(digest_size=16)
    parts: dict[bool, list[bytes]] = {False: [], True: []}
    for file, is_held in zip(found, held, strict=True):
        content = files.read_bytes(file.url) if isinstance(source, FilesSource) else _read_local(file.url)
        digest.update(f"{file.name}\0{len(content)}\0{is_held}\0".encode())
        digest.update(content)
        parts[is_held] += [content, SEPARATOR]

    vocabulary: Vocabulary | None = None
    if source.unit == "words":
        words, *streams = number_words(parts[False], parts[True])
        vocabulary = Vocabulary(words, vocab_size=vocab_size, max_chars=max_chars)
        tokens = [Tokens(stream, vocab_size=len(words), place=place) for stream in streams]
        # the vocabulary follows from all of this and the rule of cutting, which may change
        digest.update(f"\0words\0{vocab_size}\0{max_chars}\0".encode())
        digest.update(b"\n".join(words[: vocabulary.num_known]))
    else:
        tokens = [_byte_tokens(parts[is_held], vocab_size, place) for is_held in (False, True)]
    train, validation = (Windows(part, config.seq_len) for part in tokens)
    _check_lengths(train, validation, wants_validation=any(held))
    description = (
        f"{place}: {len(found)} files, {len(train.tokens):_} {source.unit} to train on, "
        f"{len(validation.tokens):_} to validate on, in {sum(held)} files"
    )
    if vocabulary is None:
        return Splits(train, validation, digest.hexdigest(), description)
    description += f"; {vocabulary.num_known:_} of {len(vocabulary.words):_} different words have a number"
    samples = [WordWindows(windows, vocabulary) for windows in (train, validation)]
    return Splits(samples[0], samples[1], digest.hexdigest(), description)


def _read_local(path: str) -> bytes:
    with open(path, "rb") as stream:  # thousands of small files: a quarter of the time through fsspec
        return stream.read()


def _byte_tokens(parts: list[bytes], vocab_size: int, place: str) -> Tokens:
    ids = np.frombuffer(b"".join(parts), dtype=np.uint8)
    if len(ids) and int(ids.max()) >= vocab_size:
        message = f"holds byte {ids.max()}; model.vocab_size is {vocab_size}"
        remedy = "set model.vocab_size to 256, one for each byte"
        raise UserError(Problem(place, message, remedy, key="model.vocab_size"))
    return Tokens(ids, vocab_size=vocab_size, place=place)


def _share_of(name: str) -> float:
    """Where in [0, 1) a file falls; by its name alone, so that adding files moves none across the split."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest()) / 2**64


def _check_split(found: list[SourceFile], shares: list[float], held: list[bool], share: float) -> None:
    if share > 0 and not any(held):
        least = min(shares)
        remedy = "set data.validation_fraction=0, or add files"
        if len(found) > 1:
            enough = np.ceil(least * 100 + 1e-9) / 100
            remedy = (
                f"set data.validation_fraction={enough:.2f} to keep one of {len(found)} files, or 0 for none"
            )
        raise UserError(
            Problem.at("data.validation_fraction", f"{share} keeps none of {len(found)} files", remedy)
        )
    if all(held):
        message = f"{share} keeps all {len(found)} files, and leaves none to train on"
        raise UserError(Problem.at("data.validation_fraction", message, "set a smaller share, or add files"))


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


def _open_tokens(config: DataConfig, source: TokensSource, vocab_size: int) -> Splits:
    urls = [source.train] + ([source.validation] if source.validation else [])
    require_files(urls, SPLIT_KEYS)
    dtype = np.dtype(source.dtype).newbyteorder("<")
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
    return np.memmap(path, dtype=dtype, mode="r") if size else np.empty(0, dtype)


def _no_windows(seq_len: int, vocab_size: int) -> Windows:
    return Windows(
        Tokens(np.empty(0, np.uint8), vocab_size=vocab_size, place="data.source.validation"), seq_len
    )


def _probe(ids: NDArray[Any], tokens: Tokens, update: Callable[[bytes], None]) -> None:
    """Read evenly spaced parts, the ends among them: all of a small file, and of a large one what a start can
    afford. A wrong dtype or vocabulary shows here; the other ids are checked as they are read."""
    count = min(len(ids), _PROBE_BYTES // ids.itemsize)
    starts = sorted({int(s) for s in np.linspace(0, len(ids) - count, _PROBES)})
    for start in starts:
        tokens.read(start, count)
        update(ids[start : start + count].tobytes())
