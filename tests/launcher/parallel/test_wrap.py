"""Recomputed layers leave what layers that ran once leave: running averages as well."""

from functools import cache
from typing import Any

import pytest
import torch

from launcher.data.dataset import Batch
from launcher.recipe.schema import Recipe
from launcher.world import World
from tests.launcher.parallel.engines import DDP, FSDP2, SINGLE, ZERO, make_engine, whole_state
from tests.launcher.parallel.test_engine import classifier_recipe
from tests.ranks import run_ranks


def train_rank(world: World, recipe: Recipe) -> tuple[float, dict[str, torch.Tensor]]:
    """Two steps of two micro batches of random tokens, different on every rank: last loss, whole state."""
    engine, plan = make_engine(recipe, world)
    source = torch.Generator().manual_seed(world.rank)
    size, length = plan.batch.micro_batch_size, recipe.data.seq_len
    loss = torch.tensor(0.0)
    for _ in range(2):
        batches = [
            Batch(
                torch.randint(16, (size, length), generator=source),
                torch.randint(10, (size,), generator=source),
                torch.randint(1, length + 1, (size,), generator=source),
            )
            for _ in range(plan.batch.num_micro)
        ]
        loss = engine.train_step(batches, 1.0).loss
    return engine.average(loss), whole_state(engine)


@cache  # what is kept is the same for every mode of recomputing
def train_on(ranks: int, *overrides: str) -> tuple[float, dict[str, torch.Tensor]]:
    recipe = classifier_recipe(
        "model.prenorm=false", "train.global_batch_size=16", f"cluster.nproc_per_node={ranks}", *overrides
    )
    if recipe.parallel.engine == "deepspeed":
        import launcher.parallel.deepspeed.deepspeed_engine  # noqa: F401 - once, in the parent of all ranks
    results: list[Any] = run_ranks(ranks, train_rank, recipe, timeout_s=300.0)
    loss, state = results[0]
    return loss, state


@pytest.mark.parametrize("mode", ["full", "selective"])
@pytest.mark.parametrize(
    "engine",
    [
        pytest.param((1, *SINGLE), id="single"),
        pytest.param((1, *SINGLE, "model.prenorm=true"), id="prenorm"),
        pytest.param((2, *FSDP2), id="fsdp2"),
        pytest.param((2, *DDP), id="ddp", marks=pytest.mark.slow),
        pytest.param((2, *ZERO[3]), id="zero3", marks=pytest.mark.slow),
    ],
)
def test_recomputing_a_layer_moves_its_running_averages_once(engine: tuple[Any, ...], mode: str) -> None:
    ranks, *options = engine
    loss, kept = train_on(ranks, *options)
    again_loss, again = train_on(ranks, *options, f"parallel.activation_checkpointing={mode}")
    assert again_loss == loss
    assert any(name.endswith("norm.running_var") for name in kept)
    for name, value in kept.items():
        assert torch.equal(value, again[name]), name


@pytest.mark.slow
def test_recomputing_a_compiled_layer_moves_its_running_averages_once() -> None:
    options = (*SINGLE, "parallel.compile=true")
    loss, kept = train_on(1, *options)
    again_loss, again = train_on(1, *options, "parallel.activation_checkpointing=full")
    assert again_loss == pytest.approx(loss, rel=1e-5)
    for name, value in kept.items():
        if name.startswith("buffer/"):
            torch.testing.assert_close(again[name], value)
