"""`launch data show RUN --step N`: the samples that a step was trained on, as text."""

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

from launcher import files
from launcher.checkpoint.catalog import Saved, find_newest
from launcher.errors import Problem, UserError
from launcher.named_runs import find_run
from launcher.recipe.schema import Recipe
from launcher.report.run_facts import read_facts
from launcher.report.spikes import data_step_of
from launcher.run_folder import require_run

if TYPE_CHECKING:
    import torch

    from launcher.data.dataset import Batch


def show_batch(options: argparse.Namespace) -> int:
    """Print a line about each sample, and its text."""
    run_url = find_run(options.run)
    require_run(run_url)
    facts = read_facts(run_url)
    short = files.shortest(run_url)
    data_step = data_step_of(facts.history.events, options.step)
    if data_step is None or options.step > facts.total:
        raise UserError(
            Problem(f"--step {options.step}", f"{short} has not trained this step", "see its report")
        )
    saved, _ = find_newest(run_url, verify=False)
    if saved is None:
        raise UserError(Problem(short, "has no checkpoint, which says how its text was encoded"))
    numbers, batch = _read_batch(facts.recipe, saved, data_step)
    per_rank = len(numbers) // facts.plan["batch"]["world_size"]
    rows = [row for row, number in enumerate(numbers) if options.sample in (None, number)]
    if not rows:
        shown = ", ".join(map(str, numbers[:8]))
        raise UserError(
            Problem(f"--sample {options.sample}", f"is not in this batch, which has {shown}, ...")
        )
    print(f"step {options.step} of {short}: global batch {data_step} of the data, {len(numbers)} samples")
    decode = _decoder(facts.recipe, saved)
    for row in rows:
        text = decode(batch.x[row], batch.y[row])
        text = _cut(text, options.characters) if options.sample is None else text
        print(f"\nsample {numbers[row]}, rank {row // per_rank}:\n{text}")
    return 0


def _cut(text: str, characters: int) -> str:
    more = len(text) - characters
    return text if more <= 0 else f"{text[:characters]} ... and {more} characters"


def _read_batch(recipe: Recipe, saved: Saved, data_step: int) -> "tuple[list[int], Batch]":
    """The samples of a global batch, with their numbers in the data."""
    from launcher.data.batches import Batches
    from launcher.data.splits import open_splits
    from models.config import max_chars

    splits = open_splits(recipe.data, recipe.model.vocab_size, max_chars(recipe.model))
    if splits.fingerprint != saved.manifest.data.fingerprint:
        message = "is not the data that the run was trained on: these would be other samples"
        raise UserError(Problem.at("data.source", message, "call it where the run was trained"))
    size = recipe.train.global_batch_size
    batches = Batches(
        splits.train,
        global_batch_size=size,
        micro_batch_size=size,
        rank=0,
        world_size=1,
        seed=recipe.seed,
        prefetch=0,
        streams=recipe.train.truncated_bptt,
    )
    (numbers,), (batch,) = batches.windows(data_step), batches.read(data_step)
    return numbers.tolist(), batch


def _decoder(recipe: Recipe, saved: Saved) -> "Callable[[torch.Tensor, torch.Tensor], str]":
    """The targets of a language model, as it would say them; else the bare numbers."""
    from launcher.data.tokenizer import open_tokenizer
    from models.loss import IGNORED

    if recipe.model.type != "lm":
        return _as_numbers
    tokenizer = open_tokenizer(saved)

    def decode(_x: "torch.Tensor", y: "torch.Tensor") -> str:
        pieces = [tokenizer.decode(token) for token in y.tolist() if token != IGNORED]
        return "".join(pieces) + tokenizer.finish()

    return decode


def _as_numbers(x: "torch.Tensor", y: "torch.Tensor") -> str:
    inputs = " ".join(f"{value:g}" for value in x.flatten().tolist())
    return f"{inputs} -> {' '.join(map(str, y.flatten().tolist()))}"
