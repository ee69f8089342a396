"""Several token sources as one: each sample is of one part, in the shares of the weights."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray

from launcher.data.config import DataConfig, MixtureSource
from launcher.data.dataset import Batch, Dataset, Reader, SplitPart, Splits
from launcher.data.order import shuffled
from launcher.data.shares import Shares
from launcher.data.supply import Supply, check_supplies
from launcher.errors import Problem, UserError
from models.documents import join_rows


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the training data."""

    name: str
    samples: Dataset
    max_epochs: float | None

    @property
    def key(self) -> int:
        """Of its order: by its name, so that parts added later change no order but their shares."""
        return int.from_bytes(hashlib.blake2b(self.name.encode(), digest_size=8).digest())


@final
class Mixture(Dataset):
    """The samples of all parts, numbered one part after the other."""

    def __init__(self, parts: Sequence[Part], weights: Sequence[float]) -> None:
        self.parts = parts
        self.shares = Shares(weights)
        self._begins = np.cumsum([0, *(part.samples.num_samples for part in parts)], dtype=np.int64)

    @property
    def num_samples(self) -> int:
        return int(self._begins[-1])

    def order(self, data_step: int, global_batch_size: int, seed: int) -> NDArray[np.int64]:
        """See Dataset: each part has its own permutations and its own epochs."""
        first = data_step * global_batch_size
        parts, numbers = self.shares.of(np.arange(first, first + global_batch_size, dtype=np.int64))
        windows = np.empty_like(numbers)
        for at, part in enumerate(self.parts):
            mine = parts == at
            found = shuffled(numbers[mine], part.samples.num_samples, seed, part.key)
            windows[mine] = self._begins[at] + found
        return windows

    def batch(self, indices: NDArray[np.int64]) -> Batch:
        which = np.searchsorted(self._begins, indices, side="right") - 1
        rows = []
        for at in np.unique(which):
            places = np.flatnonzero(which == at)
            rows.append((places, self.parts[at].samples.batch(indices[places] - self._begins[at])))
        back = torch.from_numpy(np.argsort(np.concatenate([places for places, _ in rows])))
        found = [batch for _, batch in rows]
        x, y = (torch.cat(parts)[back] for parts in zip(*((one.x, one.y) for one in found), strict=True))
        apart = [one.documents for one in found if one.documents is not None]
        return Batch(x, y, documents=join_rows(apart, back) if apart else None)


def open_mixture(config: DataConfig, source: MixtureSource, reader: Reader) -> Splits:
    """Every part, opened as a source of its own."""
    from launcher.data.source_table import source_kind

    problems, opened = [], {}
    for name, part in source.parts.items():
        own = config.model_copy(update={"source": part.source})
        try:
            opened[name] = source_kind(part.source).open(own, part.source, reader)
        except UserError as error:
            problems += [replace(one, message=f"{one.message} (part {name})") for one in error.problems]
    if problems:
        raise UserError(*problems)
    weights = [part.weight for part in source.parts.values()]
    train = Mixture(
        [Part(name, opened[name].train, part.max_epochs) for name, part in source.parts.items()], weights
    )
    return Splits(
        train,
        next(iter(opened.values())).validation,
        _fingerprint(source, opened),
        "; ".join(
            f"{name} {part.weight:g}: {opened[name].description}" for name, part in source.parts.items()
        ),
        _one_tokenizer(opened),
        parts=tuple(
            SplitPart(name, part.weight, opened[name].validation)
            for name, part in source.parts.items()
            if opened[name].validation.num_samples
        ),
    )


def _fingerprint(source: MixtureSource, opened: dict[str, Splits]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name, part in source.parts.items():
        digest.update(f"{name}\0{part.weight!r}\0{opened[name].fingerprint}\0".encode())
    return digest.hexdigest()


def _one_tokenizer(opened: dict[str, Splits]) -> str | None:
    """Raise UserError for parts whose ids mean different things."""
    known = {name: splits.tokenizer for name, splits in opened.items() if splits.tokenizer is not None}
    if len(set(known.values())) > 1:
        shown = ", ".join(f"{name} {digest[:12]}" for name, digest in known.items())
        message = f"the parts have different tokenizers: {shown}"
        raise UserError(Problem.at("data.source.parts", message, "build them with one tokenizer.json"))
    return next(iter(known.values()), None)


def check_epochs(samples: Dataset, total: int) -> None:
    """Raise UserError for each part that a run of `total` samples would repeat beyond its limit."""
    if isinstance(samples, Mixture):
        counts = samples.shares.up_to(total).tolist()
        check_supplies(
            [
                Supply(part.name, part.samples.num_samples, count, part.max_epochs)
                for part, count in zip(samples.parts, counts, strict=True)
            ]
        )
