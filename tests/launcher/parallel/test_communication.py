"""What a step sends between ranks, and that it never waits for the device."""

from collections import Counter
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from launcher.recipe.schema import Recipe
from launcher.world import World
from models.build_model import build_model
from models.layers import Linear
from tests.launcher.parallel.engines import DDP, FSDP2, SINGLE, ZERO, make_batches, make_engine, recipe_for
from tests.ranks import run_ranks

aten = torch.ops.aten
# What copies a number from the device to the host, which then waits for all that is queued before it.
WAITS = {aten._local_scalar_dense.default, aten.nonzero.default, aten.equal.default, aten.is_nonzero.default}


class CountOps(TorchDispatchMode):
    """Every operation under it, by its overload."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[Any] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen[func] += 1
        return func(*args, **(kwargs or {}))


def _count(world: World, recipe: Recipe, measure: bool) -> dict[str, int]:
    engine, plan = make_engine(recipe, world)
    batches = make_batches(recipe, plan, world)
    engine.train_step(batches.at(0), 1.0)  # the first step makes moments and buffers
    with CountOps() as count:
        engine.train_step(batches.at(1), 1.0, measure=measure)
    found = {"waits": sum(count.seen[op] for op in WAITS)}
    for name in ("allreduce_", "_reduce_scatter_base_", "_allgather_base_"):
        found[name] = count.seen[getattr(torch.ops.c10d, name).default]
    return found


@pytest.mark.parametrize(
    ("engine", "ranks"), [(SINGLE, 1), (DDP, 2), (FSDP2, 2)], ids=["single", "ddp", "fsdp2"]
)
def test_a_step_never_waits_for_the_device(engine: tuple[str, ...], ranks: int) -> None:
    recipe = recipe_for(ranks, *engine, "optim.grad_clip=0.1")
    assert run_ranks(ranks, _count, recipe, True)[0]["waits"] == 0


@pytest.mark.parametrize(("stage", "waits"), [(0, 0), (2, 1)])
def test_zero_waits_only_where_deepspeed_does_itself(stage: int, waits: int) -> None:
    """At stages 1 and 2 it reads its own norm once in a step; at stage 3 it waits at a hundred places."""
    import launcher.parallel.deepspeed.deepspeed_engine  # noqa: F401 - once, in the parent of all ranks

    found = run_ranks(2, _count, recipe_for(2, *ZERO[stage]), False)
    assert found[0]["waits"] == waits


def test_accumulation_sends_gradients_once() -> None:
    counts = {
        micro: run_ranks(2, _count, recipe_for(2, *FSDP2, f"train.micro_batch_size={micro}"), False)[0]
        for micro in (1, 4)
    }
    assert counts[1]["_reduce_scatter_base_"] == counts[4]["_reduce_scatter_base_"] == 4, (
        "two layers, the state spaces of both, and the root"
    )


def _bytes_gathered(world: World, recipe: Recipe) -> int:
    """Bytes that all-gathers of parameters give this rank in one step."""
    engine, plan = make_engine(recipe, world)
    total = 0

    class CountBytes(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal total
            if func is torch.ops.c10d._allgather_base_.default:
                total += args[0].numel() * args[0].element_size()
            return func(*args, **(kwargs or {}))

    batches = make_batches(recipe, plan, world).at(0)
    with CountBytes():
        engine.train_step(batches, 1.0)
    return total


def test_bf16_halves_the_bytes_of_matrices() -> None:
    """What is gathered for forward and backward: every matrix in half the bytes, the rest as it was."""
    wide = ("model.d_model=64", "model.vocab_size=256", "train.micro_batch_size=4")
    recipes = {p: recipe_for(2, *FSDP2, *wide, f"parallel.precision={p}") for p in ("fp32", "bf16")}
    sent = {p: run_ranks(2, _bytes_gathered, recipe)[0] for p, recipe in recipes.items()}
    with torch.device("meta"):
        model = build_model(recipes["bf16"].model)
    matrices = sum(p.numel() for m in model.modules() if isinstance(m, Linear) for p in m.parameters())
    saved = sent["fp32"] - sent["bf16"]
    # twice a step; the readout, last in forward and first in backward, stays gathered between them
    assert 2 * matrices <= saved <= 4 * matrices
