"""What precision, recomputation and compilation may change, and what not."""

from functools import partial
from typing import Any

import pytest
import torch

from launcher.recipe.schema import Recipe
from launcher.world import World
from models.layers import Linear
from tests.launcher.parallel.engines import (
    DDP,
    FSDP2,
    SINGLE,
    ZERO,
    Step,
    make_batches,
    make_engine,
    recipe_for,
    take_steps,
    train_on,
)
from tests.ranks import run_ranks

BF16 = "parallel.precision=bf16"
# bfloat16 keeps 8 bits: a product is off by up to 2^-8, and another order of sums moves a rounding by as
# much. The loss is a mean of many such errors, hence far below this.
BF16_LOSS = 2**-8 / 4


def losses(steps: list[Step]) -> list[float]:
    return [step.loss for step in steps]


@pytest.mark.parametrize(
    ("engine", "ranks"),
    [
        pytest.param(FSDP2, 2, id="fsdp2"),
        pytest.param(ZERO[0], 2, id="zero0"),
        pytest.param(DDP, 2, id="ddp", marks=pytest.mark.slow),
        pytest.param(ZERO[2], 2, id="zero2", marks=pytest.mark.slow),
        pytest.param(ZERO[3], 2, id="zero3", marks=pytest.mark.slow),
    ],
)
def test_bf16_means_the_same_on_every_engine(engine: tuple[str, ...], ranks: int) -> None:
    found, state = train_on(ranks, *engine, BF16, steps=8)
    alone, _ = train_on(1, *SINGLE, BF16, steps=8)
    exact, _ = train_on(1, *SINGLE, steps=8)
    assert losses(found) == pytest.approx(losses(alone), rel=BF16_LOSS)
    assert losses(found) != losses(exact), "nothing was computed in bfloat16"
    trained = [value for name, value in state.items() if not name.startswith("guard/")]
    assert {value.dtype for value in trained} == {torch.float32}
    counters = {float(value) for name, value in state.items() if name.endswith("/step")}
    assert counters == {8.0}, "a phantom step of Adam"


def _dtypes_in_forward(world: World, recipe: Recipe) -> tuple[dict[str, torch.dtype], set[str]]:
    """Dtype of every parameter as its module sees it, which is how it came from the other ranks."""
    engine, plan = make_engine(recipe, world)
    model = vars(engine)["_model"]
    seen: dict[str, torch.dtype] = {}

    def look(name: str, module: torch.nn.Module, inputs: object) -> None:
        seen.update({f"{name}.{key}": p.dtype for key, p in module.named_parameters(recurse=False)})

    for name, module in model.named_modules():
        module.register_forward_pre_hook(partial(look, name))
    list(take_steps(engine, make_batches(recipe, plan, world), [0]))
    linears = [name for name, module in model.named_modules() if isinstance(module, Linear)]
    return seen, {name for name in seen if name.rsplit(".", 1)[0] in linears}


def test_only_weights_of_matrix_products_travel_in_bf16() -> None:
    seen, of_linears = run_ranks(2, _dtypes_in_forward, recipe_for(2, *FSDP2, BF16))[0]
    rounded = {name for name, dtype in seen.items() if dtype == torch.bfloat16}
    assert rounded == of_linears
    assert len(rounded) >= 3
    assert not any("ssm" in name or "norm" in name or "embedding" in name for name in rounded)


@pytest.mark.parametrize("mode", ["full", "selective"])
@pytest.mark.parametrize(
    "engine",
    [
        pytest.param((1, *SINGLE), id="single"),
        pytest.param((2, *FSDP2), id="fsdp2"),
        pytest.param((2, *FSDP2, BF16), id="fsdp2-bf16", marks=pytest.mark.slow),
        pytest.param((2, *DDP), id="ddp", marks=pytest.mark.slow),
        pytest.param((2, *ZERO[2]), id="zero2", marks=pytest.mark.slow),
        pytest.param((2, *ZERO[3]), id="zero3", marks=pytest.mark.slow),
    ],
)
def test_recomputing_activations_changes_no_bit(engine: tuple[Any, ...], mode: str) -> None:
    ranks, *options = engine
    kept = train_on(ranks, *options, steps=3)
    again = train_on(ranks, *options, f"parallel.activation_checkpointing={mode}", steps=3)
    assert again[0] == kept[0]
    for name, value in kept[1].items():
        assert torch.equal(value, again[1][name]), name


def test_recomputing_draws_the_same_dropout() -> None:
    options = (*SINGLE, "model.dropout=0.3")
    kept = train_on(1, *options, steps=1)
    again = train_on(1, *options, "parallel.activation_checkpointing=full", steps=1)
    assert again[0] == kept[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "engine", [pytest.param((1, *SINGLE), id="single"), pytest.param((2, *FSDP2), id="fsdp2")]
)
def test_compiled_layers_give_the_losses_of_plain_ones(engine: tuple[Any, ...]) -> None:
    ranks, *options = engine
    plain, _ = train_on(ranks, *options, steps=3)
    compiled, _ = train_on(ranks, *options, "parallel.compile=true", steps=3, timeout_s=500.0)
    assert losses(compiled) == pytest.approx(losses(plain), rel=1e-5)
