"""Kernels that the micro batches of a step share give what each layer's own give, on every engine."""

import functools
from typing import Any

import pytest
import torch

import launcher.parallel.torch_engine as torch_engine
import models.step_kernels as step_kernels
from launcher.recipe.schema import Recipe
from launcher.world import World, world_on
from tests.launcher.parallel.engines import (
    DDP,
    FSDP2,
    SINGLE,
    ZERO,
    Step,
    recipe_for,
    train_on,
    train_rank,
)
from tests.ranks import run_ranks

State = dict[str, torch.Tensor]
ENGINES = {"ddp": DDP, "fsdp2": FSDP2} | {f"zero{stage}": engine for stage, engine in enumerate(ZERO)}
MODEL = (
    "model.pattern=[s4d,ffn,s4,dss]",
    "model.num_layers=8",
    "optim={type: sgd, lr: 0.3, momentum: 0, weight_decay: 0, grad_clip: null}",
    # three micro batches on one rank and on two
    "train.global_batch_size=12",
)
PLAIN = torch_engine.loss_sum


def train_layer_by_layer(world: World, recipe: Recipe) -> tuple[list[Step], State]:
    """Every layer makes its own kernel, in every micro batch."""
    torch_engine.loss_sum = lambda *arguments: PLAIN(*arguments[:-1], None)
    try:
        return train_rank(world, recipe, 2)
    finally:
        torch_engine.loss_sum = PLAIN


@functools.cache
def expected() -> tuple[list[Step], State]:
    return run_ranks(1, train_layer_by_layer, recipe_for(1, *SINGLE, *MODEL, "train.micro_batch_size=4"))[0]


def assert_same(found: tuple[list[Step], State]) -> None:
    steps, state = expected()
    for one, other in zip(found[0], steps, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-6)
        for name, norm in other.norms.items():
            assert one.norms[name] == pytest.approx(norm, rel=1e-4, abs=1e-6 * other.grad_norm), name
    spaces = [name for name in state if ".ssm." in name]
    assert len(spaces) == 2 * (5 + 1 + 7 + 5)
    for name, value in state.items():
        torch.testing.assert_close(
            found[1][name], value, rtol=1e-5, atol=2e-6, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("micro", [12, 4])
@pytest.mark.parametrize("kept", [0, 1 << 12])
def test_one_process_trains_as_layer_by_layer(micro: int, kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_kernels, "_KEPT_CHANNELS", kept)
    assert_same(train_on(1, *SINGLE, *MODEL, f"train.micro_batch_size={micro}", steps=2))


@pytest.mark.parametrize("name", ENGINES)
def test_every_engine_trains_as_layer_by_layer(name: str) -> None:
    assert_same(train_on(2, *ENGINES[name], *MODEL, "train.micro_batch_size=2", steps=2))


@pytest.mark.parametrize("how", ["full", "selective"])
def test_a_recomputation_makes_no_kernel(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    plain = step_kernels._generate

    def generate(*arguments: Any) -> torch.Tensor:
        made.append(len(arguments[1]))
        return plain(*arguments)

    monkeypatch.setattr(step_kernels, "_generate", generate)
    words = ("train.micro_batch_size=4", f"parallel.activation_checkpointing={how}")
    recipe = recipe_for(1, *SINGLE, *MODEL, *words)
    world = world_on("cpu")
    assert_same(train_rank(world, recipe, 2))
    # of three kinds with two layers each, once for all micro batches and once for the gradients, in two steps
    assert sum(made) == 2 * 2 * 6
