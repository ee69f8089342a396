"""Open everything that a run reads: this rank's batches and its part of the validation split."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self, final

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from launcher.data.batches import Batches, validation_batches, validation_windows
from launcher.data.dataset import Batch, Dataset, SplitPart, Splits
from launcher.data.mixture import check_epochs
from launcher.data.splits import open_splits
from launcher.errors import Problem, UserError
from launcher.parallel.engine import Evaluation
from launcher.plan.plan import Plan
from launcher.recipe.schema import Recipe
from launcher.world import World
from models.config import max_chars


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """What one rank reads of one part of the validation data."""

    name: str
    """Of the part of a mixture; empty for a source that is one."""
    weight: float
    batches: Sequence[Batch]
    num_sequences: int
    """Total over all ranks."""
    nats_to_bits_per_byte: float | None
    """What the mean loss of a target is multiplied by; None where the bytes are not known, or not rank 0."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """The validation windows of one rank."""

    parts: Sequence[Scored]
    """Empty where there is no validation."""
    baselines: Mapping[str, float]
    """Accuracies of trivial baselines, by name; on rank 0 only."""
    every: int | None

    def due(self, step: int) -> bool:
        """Whether the recipe asks for a validation after a step."""
        return bool(self.parts) and self.every is not None and step % self.every == 0

    @property
    def num_sequences(self) -> int:
        """Of all parts, over all ranks."""
        return sum(part.num_sequences for part in self.parts)

    def score(self, evaluate: Callable[[Sequence[Batch]], Evaluation]) -> Evaluation:
        """Each part by itself, and their mean by weight. All ranks together."""
        found = [evaluate(part.batches) for part in self.parts]
        if len(found) == 1 and not self.parts[0].name:
            scale = self.parts[0].nats_to_bits_per_byte
            return replace(found[0], bits_per_byte=None if scale is None else found[0].loss * scale)
        total = sum(part.weight for part in self.parts)
        named = list(zip(self.parts, found, strict=True))
        return Evaluation(
            loss=sum(part.weight * one.loss for part, one in named) / total,
            accuracy=sum(part.weight * one.accuracy for part, one in named) / total,
            loss_by_part={part.name: one.loss for part, one in named},
            bits_per_byte_by_part={
                part.name: one.loss * part.nats_to_bits_per_byte
                for part, one in named
                if part.nats_to_bits_per_byte is not None
            },
        )


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """What a run reads. Closing it ends the prefetch thread."""

    batches: Batches
    validation: Validation
    fingerprint: str
    tokenizer: str | None
    """sha256 of the tokenizer's file, where there is one."""
    description: str

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.batches.close()


def open_data(recipe: Recipe, plan: Plan, world: World) -> Data:
    """Open the recipe's source. Raises UserError where ranks read different data, and as open_splits does."""
    splits = open_splits(recipe.data, recipe.model.vocab_size, max_chars(recipe.model))
    check_same_data(world.gather(splits.fingerprint, TypeAdapter(str)))
    streams = recipe.train.truncated_bptt
    check_epochs(splits.train, plan.steps * plan.batch.global_batch_size)
    validation = _open_validation(recipe, plan, world, splits)
    batches = Batches(
        splits.train,
        global_batch_size=plan.batch.global_batch_size,
        micro_batch_size=plan.batch.micro_batch_size,
        rank=world.rank,
        world_size=world.size,
        seed=recipe.seed,
        prefetch=recipe.data.prefetch,
        streams=streams,
    )
    return Data(
        batches=batches,
        validation=validation,
        fingerprint=splits.fingerprint,
        tokenizer=splits.tokenizer,
        description=splits.description,
    )


def _open_validation(recipe: Recipe, plan: Plan, world: World, splits: Splits) -> Validation:
    parts = splits.parts or (SplitPart("", 1.0, splits.validation),)
    opened = [_open_part(recipe, plan, world, part) for part in parts]
    baselines: Mapping[str, float] = {}
    if world.is_main and not splits.parts:
        # The samples are read a second time for this: only on the rank that shows the baselines.
        baselines = splits.validation.baselines(_windows(recipe, plan, splits.validation).ravel())
    return Validation(
        parts=[part for part in opened if part.batches],
        baselines=baselines,
        every=recipe.train.validate_every,
    )


def _windows(recipe: Recipe, plan: Plan, samples: Dataset) -> NDArray[np.int64]:
    streams = plan.batch.global_batch_size if recipe.train.truncated_bptt else None
    return validation_windows(samples, recipe.train.validation_sequences, streams)


def _open_part(recipe: Recipe, plan: Plan, world: World, part: SplitPart) -> Scored:
    windows = _windows(recipe, plan, part.samples)
    batches = validation_batches(
        part.samples,
        windows,
        micro_batch_size=plan.batch.micro_batch_size,
        rank=world.rank,
        world_size=world.size,
        streams=recipe.train.truncated_bptt,
    )
    size = part.samples.text_bytes(windows.ravel()) if world.is_main else None
    return Scored(
        name=part.name,
        weight=part.weight,
        batches=list(batches),
        num_sequences=windows.size,
        nats_to_bits_per_byte=windows.size * recipe.data.seq_len / (size * math.log(2)) if size else None,
    )


def check_same_data(fingerprints: list[str]) -> None:
    """Raise UserError where ranks read different data, such as the standard libraries of two Pythons."""
    others = [rank for rank, fingerprint in enumerate(fingerprints) if fingerprint != fingerprints[0]]
    if others:
        message = f"ranks {others[:8]} read different data from rank 0"
        raise UserError(
            Problem.at("data.source", message, "give every node the same files and the same Python")
        )
