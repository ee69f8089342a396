"""Truncated backpropagation through time: windows one after the other are one sequence, on every engine."""

import functools
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from launcher.checkpoint.restore import restore_tensors
from launcher.checkpoint.storage import read_shapes, write_tensors
from launcher.data.batches import Batches
from launcher.parallel.open_engine import open_engine
from launcher.plan.plan import make_plan
from launcher.plan.worlds import planned_ranks
from launcher.recipe.schema import Recipe
from launcher.world import World, world_on
from models.layer_table import LAYERS
from models.lm import LM
from tests.launcher.parallel.engines import (
    DDP,
    FSDP2,
    HSDP,
    SINGLE,
    ZERO,
    Step,
    make_batches,
    make_engine,
    recipe_for,
    take_steps,
    train_on,
    whole_state,
)
from tests.ranks import run_ranks

CPU = torch.device("cpu")
ALONE = world_on("cpu")
STREAMS = "train.truncated_bptt=true"
# make_batches has 3999 // 32 = 124 windows: 15 for each of 8 streams, so that 20 steps see a new beginning
STEPS = 20
KINDS = [kind for kind in LAYERS if kind not in ("attention", "ffn")]
SMALL = {
    "s4": ("model.s4={d_state: 8}",),
    "dss": ("model.dss={d_state: 8}",),
    "momentum": ("model.momentum={d_head: 4}",),
    "ssd": ("model.ssd={d_head: 4, heads_per_group: 2, d_state: 8}",),
}


def open_model(*overrides: str) -> tuple[LM, Any, Batches]:
    recipe = recipe_for(1, *SINGLE, STREAMS, *overrides)
    plan = make_plan(recipe, planned_ranks(recipe))
    model, engine = open_engine(recipe, plan, ALONE)
    assert isinstance(model, LM)
    return model, engine, make_batches(recipe, plan, ALONE)


@pytest.mark.parametrize("kind", KINDS)
def test_losses_of_windows_are_those_of_one_long_sequence(kind: str) -> None:
    options = ("train.micro_batch_size=2", *SMALL.get(kind, ()))
    model, engine, batches = open_model(f"model.pattern=[{kind}, ffn]", *options)
    micros = [batches.at(step) for step in range(STEPS)]
    found = [engine.average(engine.train_step(batch, 0.0).loss) for batch in micros]
    for first, last in ((0, 15), (15, STEPS)):  # two beginnings
        x_BL, y_BL = (
            torch.cat([torch.cat([getattr(b, part) for b in micros[s]]) for s in range(first, last)], dim=1)
            for part in ("x", "y")
        )
        with torch.no_grad():
            losses_BL = nn.functional.cross_entropy(model(x_BL).transpose(1, 2), y_BL, reduction="none")
        expected = losses_BL.unflatten(1, (-1, 32)).mean((0, 2)).tolist()
        # kernels of another length and a state in between: some 1e-6 in each logit
        assert found[first:last] == pytest.approx(expected, rel=1e-5)


def test_without_carrying_the_losses_are_others() -> None:
    _, engine, batches = open_model()
    with_states = [engine.average(engine.train_step(batches.at(step), 0.0).loss) for step in range(3)]
    plain = recipe_for(1, *SINGLE)
    other, _ = make_engine(plain, ALONE)
    without = [other.average(other.train_step(batches.at(step), 0.0).loss) for step in range(3)]
    assert with_states[0] == without[0]
    assert all(abs(a - b) > 1e-4 for a, b in zip(with_states[1:], without[1:], strict=True))


def test_gradients_end_where_a_window_begins() -> None:
    """The second window's gradient is that of its own loss, with the state before it as a constant."""
    model, engine, batches = open_model("optim.grad_clip=null")
    (first, second) = (batches.at(step) for step in range(2))
    engine.train_step(first, 0.0)
    norms = engine.train_step(second, 0.0).norms
    model.zero_grad()
    for before, batch in zip(first, second, strict=True):
        with torch.no_grad():
            _, states = model(before.x, model.initial_states(len(before.x), CPU))
        logits_BLV, _ = model(batch.x, states)
        share = len(batch.x) / sum(len(b.x) for b in second)
        (nn.functional.cross_entropy(logits_BLV.transpose(1, 2), batch.y) * share).backward()
    expected = [0.0 if p.grad is None else float(p.grad.norm()) for p in model.parameters()]
    assert norms.per_parameter.tolist() == pytest.approx(expected, rel=1e-4)


@functools.cache
def alone(*overrides: str) -> tuple[list[Step], dict[str, torch.Tensor]]:
    return train_on(1, *SINGLE, STREAMS, *overrides, steps=STEPS)


ENGINES = {"ddp": DDP, "fsdp2": FSDP2, "zero0": ZERO[0], "zero1": ZERO[1], "zero2": ZERO[2], "zero3": ZERO[3]}
QUICK = [("ddp", 2), ("fsdp2", 2), ("zero1", 2), ("zero3", 2)]


@pytest.mark.parametrize(
    ("name", "ranks"),
    [
        pytest.param(name, ranks, marks=() if (name, ranks) in QUICK else pytest.mark.slow)
        for name in ENGINES
        for ranks in (1, 2, 4)
    ],
)
def test_every_engine_carries_the_states_of_one_process(name: str, ranks: int) -> None:
    found, state = train_on(ranks, *ENGINES[name], STREAMS, "train.micro_batch_size=2", steps=STEPS)
    expected, reference = alone()
    # as in test_parity: only the order of sums differs
    assert [s.loss for s in found] == pytest.approx([s.loss for s in expected], rel=1e-5)
    assert [s.grad_norm for s in found] == pytest.approx([s.grad_norm for s in expected], rel=1e-5)
    carried = [key for key in state if key.startswith("carry/")]
    assert carried == ["carry/layers.0.s4d/0", "carry/layers.1.s4d/0"]
    for key in carried:
        assert state[key].shape == (8, 12, 8)  # a row for each sequence of the global batch
        # row for row the same streams; weights have drifted apart by what Adam makes of rounding errors
        torch.testing.assert_close(state[key], reference[key], rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_hsdp_carries_the_states_of_one_process() -> None:
    found, _ = train_on(4, *HSDP, STREAMS, steps=STEPS)
    assert [s.loss for s in found] == pytest.approx([s.loss for s in alone()[0]], rel=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        ("parallel.activation_checkpointing=full",),
        ("parallel.activation_checkpointing=selective",),
        pytest.param(("parallel.compile=true",), marks=pytest.mark.slow),
    ],
    ids=["recomputed", "recomputed-in-part", "compiled"],
)
def test_layers_carry_the_same_states_when(options: tuple[str, ...]) -> None:
    found, _ = train_on(2, *FSDP2, STREAMS, *options, steps=4, timeout_s=300)
    assert [s.loss for s in found] == pytest.approx([s.loss for s in alone()[0][:4]], rel=1e-5)


def _bf16_dtypes(world: World, recipe: Recipe) -> set[torch.dtype]:
    engine, plan = make_engine(recipe, world)
    list(take_steps(engine, make_batches(recipe, plan, world), range(2)))
    return {value.dtype for name, value in engine.state().items() if name.startswith("carry/")}


def test_states_stay_float32_under_bf16() -> None:
    recipe = recipe_for(2, *FSDP2, STREAMS, "parallel.precision=bf16", "model.pattern=[s4d, ffn]")
    assert run_ranks(2, _bf16_dtypes, recipe) == [{torch.float32}] * 2


def _train_on(
    world: World, recipe: Recipe, before: str | None, first: int, last: int, after: str
) -> list[Step]:
    engine, plan = make_engine(recipe.model_copy(update={"seed": 1000 + first}) if before else recipe, world)
    if before is not None:
        engine.load(partial(restore_tensors, before))
    steps = list(take_steps(engine, make_batches(recipe, plan, world), range(first, last)))
    write_tensors(after, engine.state())
    return steps


def test_streams_continue_at_another_world_size_and_micro_batch(tmp_path: Path) -> None:
    stays = [((2, *FSDP2, "train.micro_batch_size=2"), 0, 5), ((1, *SINGLE), 5, 10), ((4, *DDP), 10, 17)]
    before, found = None, []
    for number, ((ranks, *options), first, last) in enumerate(stays):
        after = str(tmp_path / f"stay-{number}")
        recipe = recipe_for(ranks, STREAMS, *options)
        found += run_ranks(ranks, _train_on, recipe, before, first, last, after)[0]
        assert read_shapes(after)["carry/layers.0.s4d/0"] == (8, 12, 8)
        before = after
    assert [s.loss for s in found] == pytest.approx([s.loss for s in alone()[0][:17]], rel=1e-5)


@pytest.mark.parametrize(
    ("options", "ranks"),
    [(FSDP2, 2), (ZERO[2], 2), pytest.param(ZERO[3], 2, marks=pytest.mark.slow)],
    ids=["fsdp2", "zero2", "zero3"],
)
def test_a_stream_continues_from_a_checkpoint_bit_for_bit(
    tmp_path: Path, options: tuple[str, ...], ranks: int
) -> None:
    recipe = recipe_for(ranks, *options, STREAMS)
    if recipe.parallel.engine == "deepspeed":
        import launcher.parallel.deepspeed.deepspeed_engine  # noqa: F401 - once, in the parent of all ranks
    whole = run_ranks(ranks, _train_on, recipe, None, 0, 8, str(tmp_path / "whole"))[0]
    run_ranks(ranks, _train_on, recipe, None, 0, 4, str(tmp_path / "cut"))
    rest = run_ranks(ranks, _train_on, recipe, str(tmp_path / "cut"), 4, 8, str(tmp_path / "rest"))[0]
    assert rest == whole[4:]


def test_a_checkpoint_without_the_states_would_show(tmp_path: Path) -> None:
    """The claim above is not empty: zeros in the place of the states give other losses."""
    recipe = recipe_for(1, *SINGLE, STREAMS)
    engine, plan = make_engine(recipe, ALONE)
    batches = make_batches(recipe, plan, ALONE)
    list(take_steps(engine, batches, range(4)))
    saved = whole_state(engine)

    def next_loss(factor: float) -> float:
        def fill(state: Any) -> None:
            for name, tensor in state.items():
                tensor.copy_(saved[name] * (factor if name.startswith("carry/") else 1))

        other, _ = make_engine(recipe, ALONE)
        other.load(fill)
        return next(take_steps(other, batches, [4])).loss

    assert next_loss(1.0) == next(take_steps(engine, batches, [4])).loss
    assert abs(next_loss(0.0) - next_loss(1.0)) > 1e-4


def test_evaluation_continues_from_window_to_window_and_leaves_training_alone() -> None:
    model, engine, batches = open_model()
    micros = [batches.at(step) for step in range(3)]
    losses = [engine.average(engine.train_step(batch, 0.0).loss) for batch in micros]
    expected = sum(losses[:2]) / 2
    before = whole_state(engine)
    # one step fewer than training has read: it ends in other states
    found = engine.evaluate([batch for step in micros[:2] for batch in step])
    assert found.loss == pytest.approx(expected, rel=1e-6)
    after = whole_state(engine)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_classifier_has_no_states_to_carry() -> None:
    recipe = recipe_for(1, *SINGLE)
    model = recipe.model.model_dump(exclude={"tie_embeddings", "embedding_std"})
    model |= {"type": "classifier", "num_classes": 3, "encoder": {"type": "token"}}
    changed = Recipe.model_validate(
        recipe.model_dump() | {"model": model, "train": recipe.train.model_dump() | {"truncated_bptt": True}}
    )
    with pytest.raises(ValueError, match="the model is a Classifier; only an LM's states can be carried"):
        make_engine(changed, ALONE)
