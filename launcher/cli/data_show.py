"""`launch data show RUN --step N`: the samples that a step was trained on, as text."""

import argparse
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
    found = _samples(facts.recipe, saved, data_step)
    per_rank = len(found) // facts.plan["batch"]["world_size"]
    if options.sample is not None and options.sample not in found:
        numbers = ", ".join(str(number) for number in list(found)[:8])
        raise UserError(
            Problem(f"--sample {options.sample}", f"is not in this batch, which has {numbers}, ...")
        )
    print(f"step {options.step} of {short}: global batch {data_step} of the data, {len(found)} samples")
    for row, (number, text) in enumerate(found.items()):
        if options.sample is None:
            print(f"\nsample {number}, rank {row // per_rank}:\n{_cut(text, options.characters)}")
        elif options.sample == number:
            print(f"\nsample {number}, rank {row // per_rank}:\n{text}")
    return 0


def _cut(text: str, characters: int) -> str:
    more = len(text) - characters
    return text if more <= 0 else f"{text[:characters]} ... and {more} characters"


def _samples(recipe: Recipe, saved: Saved, data_step: int) -> dict[int, str]:
    """Text of each sample of a global batch, by its number in the data."""
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
    return {
        number: _text(recipe, saved, x, y)
        for number, x, y in zip(numbers.tolist(), batch.x, batch.y, strict=True)
    }


def _text(recipe: Recipe, saved: Saved, x: "torch.Tensor", y: "torch.Tensor") -> str:
    """The targets of a language model, as it would say them; else the bare numbers."""
    from launcher.data.tokenizer import open_tokenizer
    from models.loss import IGNORED

    if recipe.model.type != "lm":
        inputs = " ".join(f"{value:g}" for value in x.flatten().tolist())
        return f"{inputs} -> {' '.join(map(str, y.flatten().tolist()))}"
    tokenizer = open_tokenizer(saved)  # one for each text: it waits for the rest of a character
    return "".join(tokenizer.decode(token) for token in y.tolist() if token != IGNORED) + tokenizer.finish()
