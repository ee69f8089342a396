"""Rules of batch sizes: what shape_batch refuses, in terms of the recipe."""

from collections.abc import Iterator

from launcher.errors import Problem
from launcher.plan.batch import UnevenBatchError, shape_batch
from launcher.plan.worlds import planned_ranks
from launcher.recipe.loaded import LoadedRecipe
from launcher.recipe.rules.refuse import Rule, describe_world, refuse


def batch_divides_over_ranks(loaded: LoadedRecipe) -> Iterator[Problem]:
    """`train.global_batch_size` is a multiple of the number of ranks."""
    if (uneven := _uneven(loaded)) is not None and uneven.key == "global_batch_size":
        key, fits = "train.global_batch_size", " or ".join(map(str, uneven.fits))
        yield refuse(loaded, key, f"<{key}> does not divide over {describe_world(loaded)}", f"use {fits}")


def micro_batches_are_whole(loaded: LoadedRecipe) -> Iterator[Problem]:
    """`train.micro_batch_size` divides each rank's part of the global batch, or is larger than it."""
    if (uneven := _uneven(loaded)) is not None and uneven.key == "micro_batch_size":
        key = "train.micro_batch_size"
        part = loaded.recipe.train.global_batch_size // planned_ranks(loaded.recipe)
        message = (
            f"<{key}> does not divide the {part} sequences of each rank: <train.global_batch_size> over "
        )
        yield refuse(loaded, key, message + describe_world(loaded), f"use {uneven.fits[0]}")


def statistics_have_samples(loaded: LoadedRecipe) -> Iterator[Problem]:
    """`model.batch_entropy` and `soft_neighbours` compare at least 2 samples: micro batch times ranks."""
    train, ranks = loaded.recipe.train, planned_ranks(loaded.recipe)
    if ranks * min(train.micro_batch_size, train.global_batch_size // ranks) >= 2:
        return
    for name in ("batch_entropy", "soft_neighbours"):
        if getattr(loaded.recipe.model, name, None) is not None:
            message = f"compares samples, but there is 1: <train.micro_batch_size> x {describe_world(loaded)}"
            yield refuse(loaded, f"model.{name}", message, "use a larger micro batch, or remove it")


def _uneven(loaded: LoadedRecipe) -> UnevenBatchError | None:
    # One function divides a batch, for the plan and for the rules: they cannot disagree about what fits.
    train = loaded.recipe.train
    try:
        shape_batch(train.global_batch_size, train.micro_batch_size, planned_ranks(loaded.recipe), 1)
    except UnevenBatchError as uneven:
        return uneven
    return None


BATCH_RULES = (
    Rule("batch-over-ranks", batch_divides_over_ranks),
    Rule("whole-micro-batches", micro_batches_are_whole),
    Rule("statistics-have-samples", statistics_have_samples),
)
