"""Open everything that a run reads: this rank's batches and its part of the validation split."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self, final

from pydantic import TypeAdapter

from launcher.data.batches import Batches, validation_batches, validation_windows
from launcher.data.dataset import Batch
from launcher.data.splits import open_splits
from launcher.errors import Problem, UserError
from launcher.plan.plan import Plan
from launcher.recipe.schema import Recipe
from launcher.world import World
from models.config import max_chars


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """The validation windows of one rank."""

    batches: Sequence[Batch]
    """Empty where there is no validation."""
    num_sequences: int
    """Total over all ranks."""
    baselines: Mapping[str, float]
    """Accuracies of trivial baselines, by name; on rank 0 only."""
    every: int | None

    def due(self, step: int) -> bool:
        """Whether the recipe asks for a validation after a step."""
        return bool(self.batches) and self.every is not None and step % self.every == 0


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """What a run reads. Closing it ends the prefetch thread."""

    batches: Batches
    validation: Validation
    fingerprint: str
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
    windows = validation_windows(
        splits.validation,
        recipe.train.validation_sequences,
        plan.batch.global_batch_size if streams else None,
    )
    validation = Validation(
        batches=list(
            validation_batches(
                splits.validation,
                windows,
                micro_batch_size=plan.batch.micro_batch_size,
                rank=world.rank,
                world_size=world.size,
                streams=streams,
            )
        ),
        num_sequences=windows.size,
        # The samples are read a second time for this: only on the rank that shows the baselines.
        baselines=splits.validation.baselines(windows.ravel()) if world.is_main else {},
        every=recipe.train.validate_every,
    )
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
        description=splits.description,
    )


def check_same_data(fingerprints: list[str]) -> None:
    """Raise UserError where ranks read different data, such as the standard libraries of two Pythons."""
    others = [rank for rank, fingerprint in enumerate(fingerprints) if fingerprint != fingerprints[0]]
    if others:
        message = f"ranks {others[:8]} read different data from rank 0"
        raise UserError(
            Problem.at("data.source", message, "give every node the same files and the same Python")
        )
