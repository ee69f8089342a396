"""Engines of the small recipe on a few ranks, driven step by step as the loop drives them."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.distributed.tensor import DTensor

from launcher.data.batches import Batches
from launcher.data.dataset import Tokens, Windows
from launcher.parallel.deepspeed import zero_config
from launcher.parallel.engine import Engine
from launcher.parallel.open_engine import open_engine
from launcher.plan.plan import Plan, make_plan
from launcher.plan.worlds import planned_ranks
from launcher.recipe.schema import Recipe
from launcher.world import World
from tests.ranks import run_ranks
from tests.small_run import small_recipe

os.environ.setdefault("DS_ACCELERATOR", "cpu")

TORCH = "parallel.engine=torch"
SINGLE = (TORCH, "parallel.strategy=single")
DDP = (TORCH, "parallel.strategy=ddp")
FSDP2 = (TORCH, "parallel.strategy=fsdp2")
HSDP = (TORCH, "parallel.strategy=hsdp", "parallel.shard_size=2")
ZERO = tuple(("parallel.engine=deepspeed", f"parallel.zero_stage={stage}") for stage in range(4))
# Sizes that no world size divides; gradients for every parameter from the first step on; always clipped.
ODD = (
    "model.dropout=0",
    "model.d_model=12",
    "mup.base_width=4",
    "model.vocab_size=259",
    "model.readout_zero_init=false",
    "optim.grad_clip=0.1",
)


def recipe_for(ranks: int, *overrides: str) -> Recipe:
    """The small recipe without dropout, whose masks differ between ranks by design."""
    return small_recipe(*ODD, f"cluster.nproc_per_node={ranks}", *overrides)


def make_engine(recipe: Recipe, world: World) -> tuple[Engine, Plan]:
    """As train() makes it; but ZeRO 3 cuts small parameters as well."""
    zero_config.SMALL_PARAMETER = 0
    plan = make_plan(recipe, planned_ranks(recipe))
    _, engine = open_engine(recipe, plan, world)
    return engine, plan


def make_samples(recipe: Recipe) -> Windows:
    """Windows of random tokens."""
    assert recipe.model.type == "lm"
    ids = np.random.default_rng(3).integers(0, recipe.model.vocab_size, size=4000)
    return Windows(Tokens(ids, vocab_size=recipe.model.vocab_size, place="test"), recipe.data.seq_len)


def make_batches(recipe: Recipe, plan: Plan, world: World) -> Batches:
    """Those windows in the order of a run."""
    return Batches(
        make_samples(recipe),
        global_batch_size=plan.batch.global_batch_size,
        micro_batch_size=plan.batch.micro_batch_size,
        rank=world.rank,
        world_size=world.size,
        seed=recipe.seed,
        prefetch=0,
        streams=recipe.train.truncated_bptt,
    )


@dataclass(frozen=True)
class Step:
    """What one step said, as plain numbers."""

    loss: float
    grad_norm: float
    coefficient: float
    norms: dict[str, float]
    sums: dict[str, float]
    weights: dict[str, float]
    updates: dict[str, float]


def take_steps(engine: Engine, batches: Batches, steps: Sequence[int]) -> Iterator[Step]:
    """Train, measuring everything; the rate falls from step to step as under a schedule."""
    for step in steps:
        taken = engine.train_step(batches.at(step), 1.0 / (1 + step), measure=True)
        norms = taken.norms
        assert norms.updates is not None
        assert norms.sums is not None
        yield Step(
            loss=engine.average(taken.loss),
            grad_norm=float(norms.total),
            coefficient=float(norms.coefficient),
            norms=_named(norms.names, norms.per_parameter),
            sums=_named(norms.names, norms.sums),
            weights=_named(norms.names, norms.updates.weight),
            updates=_named(norms.names, norms.updates.update),
        )


def _named(names: tuple[str, ...], values: torch.Tensor) -> dict[str, float]:
    return dict(zip(names, values.tolist(), strict=True))


def whole_state(engine: Engine) -> dict[str, torch.Tensor]:
    """Copies of all tensors of a state, unsharded."""
    return {
        name: (value.full_tensor() if isinstance(value, DTensor) else value).detach().cpu().clone()
        for name, value in engine.state().items()
    }


def train_rank(world: World, recipe: Recipe, num_steps: int) -> tuple[list[Step], dict[str, torch.Tensor]]:
    """Every step of a training from its start, and the state after it."""
    engine, plan = make_engine(recipe, world)
    steps = list(take_steps(engine, make_batches(recipe, plan, world), range(num_steps)))
    return steps, whole_state(engine)


def train_on(
    ranks: int, *overrides: str, steps: int, timeout_s: float = 120.0
) -> tuple[list[Step], dict[str, torch.Tensor]]:
    """Train on so many ranks; all of them must say the same."""
    recipe = recipe_for(ranks, *overrides)
    if recipe.parallel.engine == "deepspeed":
        import launcher.parallel.deepspeed.deepspeed_engine  # noqa: F401 - once, in the parent of all ranks
    results: list[Any] = run_ranks(ranks, train_rank, recipe, steps, timeout_s=timeout_s)
    assert all(result[0] == results[0][0] for result in results), "ranks disagree about the step"
    return results[0]
