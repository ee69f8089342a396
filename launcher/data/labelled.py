"""Labelled sequences from NumPy files, memory-mapped where they are local."""

import hashlib
import io
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray

from launcher import files
from launcher.data.config import DataConfig, LabelledSource
from launcher.data.dataset import Batch, Dataset, Reader, Splits
from launcher.data.order import evenly_spaced
from launcher.data.sources import require_files
from launcher.errors import Problem, UserError, about

_PROBES = 256
"""Sequences of x.npy that are checked and hashed at the start; the others are checked as they are read."""


@final
class Labelled(Dataset):
    """One folder with x.npy, y.npy and optionally lengths.npy."""

    def __init__(self, source: LabelledSource, folder: str, seq_len: int, max_chars: int | None) -> None:
        self._source = source
        self._folder = folder
        self._places = (2, seq_len) if source.num_sequences == 2 else (seq_len,)
        self._x = _open_array(files.join(folder, "x.npy"))
        self._labels = np.asarray(_open_array(files.join(folder, "y.npy")))
        has_lengths = files.exists(files.join(folder, "lengths.npy"))
        self._lengths = np.asarray(_open_array(files.join(folder, "lengths.npy"))) if has_lengths else None
        self._check(seq_len, max_chars)

    @property
    def num_samples(self) -> int:
        return len(self._labels)

    def batch(self, indices: NDArray[np.int64]) -> Batch:
        """Raises UserError for a token outside the vocabulary; a signal may hold anything."""
        x = np.asarray(self._x[indices])
        lengths = None
        if self._lengths is not None:
            lengths = torch.from_numpy(self._lengths[indices].astype(np.int64))
        y = torch.from_numpy(self._labels[indices].astype(np.int64))
        return Batch(self._ids(x) if self._source.num_features is None else self._signals(x), y, lengths)

    def baselines(self, indices: NDArray[np.int64]) -> dict[str, float]:
        counts = np.bincount(self._labels[indices].astype(np.int64))
        return {"most frequent class": int(counts.max(initial=0)) / max(1, len(indices))}

    def probe(self) -> bytes:
        """Hash of shapes, labels, lengths and evenly spaced sequences."""
        digest = hashlib.blake2b(repr((self._x.shape, self._x.dtype.str)).encode(), digest_size=16)
        digest.update(self._labels.astype(np.int64).tobytes())
        if self._lengths is not None:
            digest.update(self._lengths.astype(np.int64).tobytes())
        # x may be larger than memory, so only a sample of it is read. Going through batch() also checks its
        # ids: a wrong vocab_size fails at the start, not hours into a run.
        indices = evenly_spaced(_PROBES, self.num_samples)
        x = self.batch(indices).x
        self._check_finite(indices, x)
        digest.update(x.numpy().tobytes())
        return digest.digest()

    def _check_finite(self, indices: NDArray[np.int64], x: torch.Tensor) -> None:
        finite = x.flatten(1).isfinite().all(1).numpy()
        if not finite.all():
            message = f"has a value in sequence {indices[~finite][0]} that is NaN or infinite"
            raise UserError(Problem(files.join(self._folder, "x.npy"), message, "write finite numbers"))

    def _ids(self, x: NDArray[Any]) -> torch.Tensor:
        """Tokens, or characters of words, after a check of their range."""
        source = self._source
        noun, size_key, size = "token", "vocab_size", source.vocab_size
        if source.num_chars is not None:
            noun, size_key, size = "character", "num_chars", source.num_chars
        least, most = int(x.min(initial=0)), int(x.max(initial=0))
        if size is None or not 0 <= least <= most < size:
            remedy = f"set data.source.{size_key} to at least {most + 1}" if least >= 0 else "use ids from 0"
            place = files.join(self._folder, "x.npy")
            message = f"has {noun} {most if least >= 0 else least}; data.source.{size_key} is {size}"
            raise UserError(Problem(place, message, remedy, key=f"data.source.{size_key}"))
        return torch.from_numpy(x.astype(np.int64))

    def _signals(self, x: NDArray[Any]) -> torch.Tensor:
        scaled = x.astype(np.float32) / 127.5 - 1 if x.dtype == np.uint8 else x.astype(np.float32)
        return torch.from_numpy(scaled[..., None] if scaled.shape[1:] == self._places else scaled)

    def _check(self, seq_len: int, max_chars: int | None) -> None:
        """Raise UserError naming everything that does not fit the recipe."""
        x, problems = self._x, []
        count = len(x) if x.ndim else 0
        for name, values, shape in (
            ("y.npy", self._labels, (count,)),
            ("lengths.npy", self._lengths, (count, *self._places[:-1])),
        ):
            if values is not None and (values.shape != shape or values.dtype.kind not in "iu"):
                message = f"is {values.dtype} {values.shape}; x.npy has {count} {self._noun}"
                problems.append(Problem(files.join(self._folder, name), message, f"use integers {shape}"))
        if count == 0:
            problems.append(Problem(files.join(self._folder, "x.npy"), f"holds no {self._noun}", "add data"))
        shapes, has_type, what = self._allowed(max_chars)
        if not has_type or x.shape[1:] not in shapes:
            message = f"is {x.dtype} {x.shape}; data.seq_len is {seq_len}"
            sizes = ", ".join(map(str, shapes[0]))
            problems.append(Problem(files.join(self._folder, "x.npy"), message, f"use {what} (S, {sizes})"))
        if not problems:
            problems += self._check_values(seq_len)
        if problems:
            raise UserError(*problems)

    @property
    def _noun(self) -> str:
        return "pairs" if self._source.num_sequences == 2 else "sequences"

    def _allowed(self, max_chars: int | None) -> tuple[list[tuple[int, ...]], bool, str]:
        """Allowed shapes of a sample, the usual one first; whether x has an allowed dtype; those in words."""
        features = self._source.num_features
        if features is not None:
            shapes = [(*self._places, features)] + [self._places] * (features == 1)
            return shapes, self._x.dtype in (np.float32, np.uint8), "float32 or uint8"
        shape = self._places if max_chars is None else (*self._places, max_chars)
        return [shape], self._x.dtype.kind in "iu", "integers"

    def _check_values(self, seq_len: int) -> list[Problem]:
        problems = []
        most = self._source.num_classes - 1
        for name, values, low, high, key in (
            ("y.npy", self._labels, 0, most, "data.source.num_classes"),
            ("lengths.npy", self._lengths, 1, seq_len, "data.seq_len"),
        ):
            if values is not None and not (low <= int(values.min()) and int(values.max()) <= high):
                message = f"spans {values.min()} to {values.max()}; allowed are {low} to {high}"
                remedy = f"fix the file, or change {key}"
                problems.append(Problem(files.join(self._folder, name), message, remedy, key=key))
        return problems


@final
class NoSamples(Dataset):
    """Stands for the validation split where there is none."""

    @property
    def num_samples(self) -> int:
        return 0

    def batch(self, indices: NDArray[np.int64]) -> Batch:
        raise ValueError(f"samples {indices} asked for; there are none")


def open_labelled(config: DataConfig, source: LabelledSource, reader: Reader) -> Splits:
    """Open the folder of each split. Raises UserError for files that do not fit the recipe."""
    folders = [source.train] + ([source.validation] if source.validation else [])
    require_files(source.required_files())
    opened: list[Labelled] = []
    for folder, key in zip(folders, ("data.source.train", "data.source.validation"), strict=False):
        with about(key):
            opened.append(Labelled(source, folder, config.seq_len, reader.max_chars))
    digest = hashlib.blake2b(b"".join(samples.probe() for samples in opened), digest_size=16)
    train, validation = opened[0], opened[1] if source.validation else NoSamples()
    noun = "pairs" if source.num_sequences == 2 else "sequences"
    described = f"{train.num_samples:_} {noun} to train on, {validation.num_samples:_} to validate on"
    return Splits(train, validation, digest.hexdigest(), f"{source.train}: {described}")


def _open_array(url: str) -> NDArray[Any]:
    # An object store cannot be memory-mapped: a remote file is read whole.
    path = files.local_path(url)
    try:
        if path is not None:
            array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
            return array
        return np.lib.format.read_array(io.BytesIO(files.read_bytes(url)), allow_pickle=False)
    except (ValueError, OSError) as error:  # what numpy raises for other formats and for pickles
        reason = str(error).splitlines()[0]
        raise UserError(Problem(url, f"cannot be read: {reason}", "write it with numpy.save")) from None
