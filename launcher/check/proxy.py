"""The proxy model of a recipe: small, and trained for a few steps on one batch with the code of a run."""

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import nn

from launcher.check.probe import Recorder, Recording
from launcher.data.config import DataConfig
from launcher.data.dataset import Batch, Splits
from launcher.data.splits import open_splits
from launcher.parallel.engine import Engine
from launcher.parallel.gradients import GradientNorms
from launcher.parallel.open_engine import open_engine
from launcher.plan.plan import Plan, make_plan
from launcher.recipe.schema import Recipe
from launcher.world import World, seed_step
from models.config import max_chars


@final
@dataclass(slots=True)
class ProxyModel:
    """A proxy model with its engine and its only batch."""

    recipe: Recipe
    plan: Plan
    model: nn.Module
    engine: Engine
    recorder: Recorder
    batch: Batch
    """The whole batch, the same on every rank."""
    world: World
    step: int = 0

    def train_step(self, lr_amplification: float) -> GradientNorms:
        """One update on the batch, divided among the ranks, with every peak rate times `lr_amplification`."""
        # The amplification takes the place of lr_multiplier, which is at most 1 in a run.
        seed_step(self.recipe.seed, self.step, self.world.rank)
        taken = self.engine.train_step([rank_batch(self.batch, self.world)], lr_amplification)
        self.step += 1
        return taken.norms

    def record(self) -> tuple[Recording, float]:
        """Every module's output on the whole batch without dropout, and the mean loss."""
        recording = self.recorder.start()
        loss = self.engine.evaluate([self.batch], by_modules=True).loss
        self.recorder.stop()
        return recording, loss

    def close(self) -> None:
        """Remove the hooks, which keep the model alive."""
        self.recorder.remove()


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread.

    Proxy models gain nothing from a second one, and become ten times slower if another process uses its core.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def build_proxy(recipe: Recipe, batch: Batch, world: World) -> ProxyModel:
    """Initialize the model of a recipe as a run does, on this rank."""
    plan = make_plan(recipe, world.size)
    model, engine = open_engine(recipe, plan, world)
    return ProxyModel(recipe, plan, model, engine, Recorder(model), batch, world)


@functools.cache
def _open(kind: type[DataConfig], data: str, vocab_size: int | None, max_chars: int | None) -> Splits:
    # By its text: the parts of a mixture are a dict, which has no hash.
    return open_splits(kind.model_validate_json(data), vocab_size, max_chars)


def first_batch(recipe: Recipe) -> Batch:
    """The first samples of the recipe's own data, as many as one step has."""
    data, model = recipe.data, recipe.model
    splits = _open(type(data), data.model_dump_json(), model.vocab_size, max_chars(model))
    return splits.train.batch(np.arange(recipe.train.global_batch_size))


def rank_batch(batch: Batch, world: World) -> Batch:
    """This rank's sequences."""
    part = slice(world.rank, None, world.size)
    lengths = None if batch.lengths is None else batch.lengths[part]
    return Batch(batch.x[part], batch.y[part], lengths)
