"""One checkpoint format: a run continues under any engine and on any number of ranks."""

import functools
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.tensor import DTensor

from launcher.checkpoint.catalog import step_folder
from launcher.checkpoint.restore import restore_tensors
from launcher.checkpoint.storage import write_tensors
from launcher.recipe.schema import Recipe
from launcher.world import World
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
    whole_state,
)
from tests.ranks import run_ranks
from tests.small_run import losses, train_run

# A stay of three steps under one engine and on some ranks.
Stay = tuple[tuple[str, ...], int]
LENGTH = 3


def stay_rank(world: World, recipe: Recipe, first: int, before: str | None, after: str) -> list[Step]:
    """Load, train, save; starts from another seed, so that what is not loaded shows."""
    engine, plan = make_engine(recipe.model_copy(update={"seed": 1000 + first}) if before else recipe, world)
    if before is not None:
        engine.load(partial(restore_tensors, before))
    steps = list(take_steps(engine, make_batches(recipe, plan, world), range(first, first + LENGTH)))
    write_tensors(after, engine.state())
    return steps


def travel(folder: Path, stays: list[Stay], *overrides: str) -> list[Step]:
    """Train on through all stays, each from the checkpoint of the one before."""
    steps: list[Step] = []
    before: str | None = None
    for number, (engine, ranks) in enumerate(stays):
        recipe = recipe_for(ranks, *engine, *overrides)
        if recipe.parallel.engine == "deepspeed":
            import launcher.parallel.deepspeed.deepspeed_engine  # noqa: F401 - once, in the parent of all ranks
        after = str(folder / f"stay-{number}")
        steps += run_ranks(ranks, stay_rank, recipe, number * LENGTH, before, after)[0]
        before = after
    return steps


@functools.cache
def uninterrupted(*overrides: str) -> list[Step]:
    return train_on(1, *SINGLE, *overrides, steps=4 * LENGTH)[0]


@pytest.mark.parametrize(
    "stays",
    [
        pytest.param([(FSDP2, 4), (ZERO[2], 2), (SINGLE, 1)], id="fsdp2x4-zero2x2-single"),
        pytest.param(
            [(SINGLE, 1), (ZERO[3], 2), (FSDP2, 2), (ZERO[1], 4)],
            id="single-zero3x2-fsdp2x2-zero1x4",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            [(ZERO[3], 4), (ZERO[0], 2), (DDP, 2), (ZERO[3], 1)],
            id="zero3x4-zero0x2-ddpx2-zero3x1",
            marks=pytest.mark.slow,
        ),
    ],
)
@pytest.mark.parametrize("optim", ["adamw", pytest.param("sgd", marks=pytest.mark.slow)])
def test_a_run_travels_between_engines(tmp_path: Path, stays: list[Stay], optim: str) -> None:
    overrides = () if optim == "adamw" else ("optim={type: sgd, lr: 0.5, momentum: 0.9, grad_clip: 0.1}",)
    found, expected = travel(tmp_path, stays, *overrides), uninterrupted(*overrides)
    for number, step in enumerate(found):
        # as between engines: see test_parity
        assert step.loss == pytest.approx(expected[number].loss, rel=1e-5), f"step {number}"
        assert step.grad_norm == pytest.approx(expected[number].grad_norm, rel=1e-5), f"step {number}"
        # the size of the update holds learning rate, moments and their bias correction together
        assert step.updates == pytest.approx(expected[number].updates, rel=1e-2), f"step {number}"


def _saved_and_loaded(world: World, recipe: Recipe, folder: str) -> tuple[dict[str, Any], dict[str, Any]]:
    engine, plan = make_engine(recipe, world)
    list(take_steps(engine, make_batches(recipe, plan, world), range(2)))
    saved = whole_state(engine)
    write_tensors(folder, engine.state())
    other, _ = make_engine(recipe.model_copy(update={"seed": 5}), world)
    other.load(partial(restore_tensors, folder))
    return saved, whole_state(other)


@pytest.mark.parametrize(
    "engine",
    [FSDP2, ZERO[1], *(pytest.param(ZERO[stage], marks=pytest.mark.slow) for stage in (0, 2, 3))],
    ids=["fsdp2", "zero1", "zero0", "zero2", "zero3"],
)
def test_state_comes_back_bit_for_bit(tmp_path: Path, engine: tuple[str, ...]) -> None:
    recipe = recipe_for(2, *engine)
    if recipe.parallel.engine == "deepspeed":
        import launcher.parallel.deepspeed.deepspeed_engine  # noqa: F401
    for saved, loaded in run_ranks(2, _saved_and_loaded, recipe, str(tmp_path / "step")):
        assert saved.keys() == loaded.keys()
        for name, value in saved.items():
            assert torch.equal(value, loaded[name]), name


def _shares(world: World, recipe: Recipe) -> tuple[int, int]:
    engine, _ = make_engine(recipe, world)
    state = engine.state()
    own = sum((t.to_local() if isinstance(t, DTensor) else t).numel() for t in state.values())
    return own, sum(t.numel() for t in state.values())


def test_no_rank_holds_the_whole_state_of_a_zero_engine() -> None:
    import launcher.parallel.deepspeed.deepspeed_engine  # noqa: F401

    shares = run_ranks(2, _shares, recipe_for(2, *ZERO[2]))
    for own, whole in shares:
        assert own < 0.6 * whole


@pytest.mark.slow
def test_a_run_changes_its_engine_through_the_loop(tmp_path: Path) -> None:
    """As `launch resume RUN parallel.strategy=...` does, with evaluation, checkpoints and journal."""
    import launcher.parallel.deepspeed.deepspeed_engine  # noqa: F401

    common = ("model.dropout=0", "train.steps=10", "checkpoint.every=5")
    whole = train_run(tmp_path / "whole", *common)
    train_run(tmp_path / "moved", *common, *ZERO[3], ranks=2)
    shutil.rmtree(step_folder(str(tmp_path / "moved"), 10))
    moved = train_run(tmp_path / "moved", *common, *FSDP2, ranks=2)
    assert (moved[5]["attempt"], moved[10]["attempt"]) == (1, 2)
    assert losses(moved) == pytest.approx(losses(whole), rel=1e-5)
    for step in (5, 10):
        for kind in ("grad_norm_group", "grad_norm_layer"):
            assert moved[step][kind] == pytest.approx(whole[step][kind], rel=1e-3), (step, kind)
