"""Every known trap of DeepSpeed is worked around or refused."""

import importlib.util
import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from launcher.checkpoint.restore import restore_tensors
from launcher.checkpoint.storage import write_tensors
from launcher.errors import UserError
from launcher.parallel.deepspeed.zero_config import zero_config
from launcher.parallel.open_engine import _refuse_complex
from launcher.plan.plan import make_plan
from launcher.plan.worlds import planned_ranks
from launcher.recipe.schema import Recipe
from launcher.world import World, open_world
from tests.launcher.parallel.engines import (
    SINGLE,
    ZERO,
    make_batches,
    make_engine,
    recipe_for,
    take_steps,
    train_on,
)
from tests.ranks import run_ranks

ALL_STAGES = [
    pytest.param(stage, marks=() if stage == 3 else pytest.mark.slow, id=f"zero{stage}") for stage in range(4)
]


@pytest.fixture(autouse=True)
def _imported_once() -> None:
    """In the parent of all ranks."""
    import launcher.parallel.deepspeed.deepspeed_engine  # noqa: F401


def test_its_json_comes_from_the_plan() -> None:
    recipe = recipe_for(2, *ZERO[2], "parallel.precision=bf16", "train.micro_batch_size=2")
    plan = make_plan(recipe, planned_ranks(recipe))
    rendered = zero_config(recipe.parallel, plan.batch, plan.parameters.num_parameters)
    assert rendered["train_batch_size"] == 8
    assert rendered["train_micro_batch_size_per_gpu"] == 2
    assert rendered["gradient_accumulation_steps"] == 2
    assert rendered["gradient_clipping"] == 0.0, "clipping is ours"
    assert rendered["torch_autocast"] == {
        "enabled": True,
        "dtype": "bfloat16",
        "lower_precision_safe_modules": [],
    }
    assert "bf16" not in rendered, "it would cast the SSM's tensors"
    assert "optimizer" not in rendered, "the optimizer is ours, with our groups"


def _rates(world: World, recipe: Recipe, folder: str) -> tuple[list[Any], list[Any], list[str]]:
    """Group options as DeepSpeed holds them, fresh and after loading a checkpoint; and what it compiled."""
    cache = os.environ["TORCH_EXTENSIONS_DIR"] = f"{folder}/extensions"
    engine, plan = make_engine(recipe, world)
    fresh = _groups(engine)
    list(take_steps(engine, make_batches(recipe, plan, world), range(1)))
    write_tensors(f"{folder}/step", engine.state())
    other, _ = make_engine(recipe, world)
    other.load(partial(restore_tensors, f"{folder}/step"))
    return fresh, _groups(other), os.listdir(cache) if os.path.isdir(cache) else []


def _groups(engine: Any) -> list[tuple[str, float, float]]:
    groups = vars(engine)["_engine"].optimizer.param_groups
    return [(group["name"], group["lr"], group["weight_decay"]) for group in groups]


@pytest.mark.parametrize("stage", ALL_STAGES)
def test_groups_are_the_plans_also_after_loading_and_nothing_is_compiled(stage: int, tmp_path: Path) -> None:
    """Its own restore at stage 3 gives every group the options of the first."""
    recipe = recipe_for(2, *ZERO[stage])
    planned = [
        (group.name, group.lr, group.weight_decay)
        for group in make_plan(recipe, planned_ranks(recipe)).parameters.groups
    ]
    assert len({lr for _, lr, _ in planned}) > 1, "else nothing could be mixed up"
    for fresh, loaded, compiled in run_ranks(2, _rates, recipe, str(tmp_path)):
        assert fresh == loaded == planned
        assert compiled == []


def _without_ranks(world: World, recipe: Recipe) -> float:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        del os.environ[name]
    world = open_world(timeout_s=60.0)
    engine, plan = make_engine(recipe, world)
    return next(take_steps(engine, make_batches(recipe, plan, world), [0])).loss


def test_one_process_without_torchrun_needs_no_mpi() -> None:
    found = run_ranks(1, _without_ranks, recipe_for(1, *ZERO[2]))[0]
    assert found == pytest.approx(train_on(1, *SINGLE, steps=1)[0][0].loss, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("optim", ["adam", "lion", "smorms3"])
@pytest.mark.parametrize("stage", [2, 3])
def test_optimizers_may_be_stepped_once_a_group_on_flat_buffers(optim: str, stage: int) -> None:
    options = f"optim={{type: {optim}, lr: 1e-3, grad_clip: 0.1}}"
    found, _ = train_on(2, *ZERO[stage], options, steps=4)
    expected, _ = train_on(1, *SINGLE, options, steps=4)
    # Lion takes signs: one flipped by rounding moves one weight by twice the rate, the mean loss hardly.
    assert [s.loss for s in found] == pytest.approx([s.loss for s in expected], rel=1e-4)


@pytest.mark.parametrize("stage", ALL_STAGES)
def test_tied_weights_train_as_in_one_process(stage: int) -> None:
    found, state = train_on(2, *ZERO[stage], "model.tie_embeddings=true", steps=3)
    expected, reference = train_on(1, *SINGLE, "model.tie_embeddings=true", steps=3)
    assert [s.loss for s in found] == pytest.approx([s.loss for s in expected], rel=1e-5)
    assert [s.grad_norm for s in found] == pytest.approx([s.grad_norm for s in expected], rel=1e-5)
    assert state.keys() == reference.keys()


def test_complex_parameters_are_refused_for_every_engine() -> None:
    model = nn.Module()
    model.weight = nn.Parameter(torch.zeros(2, dtype=torch.complex64, device="meta"))
    with pytest.raises(
        ValueError, match=r"1 parameters are complex, such as \['weight'\]; keep real numbers"
    ):
        _refuse_complex(model)


def test_a_missing_deepspeed_is_told_by_the_recipe_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "launcher.recipe.rules.parallel_rules.find_spec",
        lambda name: None if name == "deepspeed" else find(name),
    )
    with pytest.raises(UserError, match=r"deepspeed.*is not installed here .*\n    pip install 'deepspeed"):
        recipe_for(2, *ZERO[1])
