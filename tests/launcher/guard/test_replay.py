"""A step that was not finite names its sample and its module."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from launcher.data.open_data import open_data
from launcher.guard.replay import Found, Replay
from launcher.recipe.compile import compile_recipe
from launcher.recipe.schema import Recipe
from launcher.world import World
from tests.launcher.parallel.engines import DDP, FSDP2, SINGLE, ZERO, make_engine
from tests.ranks import run_ranks

RECIPE = """\
version: 1
name: classify
seed: 1
checkpoint: {{every: 10}}
model: {{type: classifier, num_classes: 4, d_model: 8, num_layers: 2, pattern: [s4d],
  encoder: {{type: linear, num_features: 1}}, s4d: {{d_state: 4}}}}
data: {{source: {{type: labelled, train: {folder}, num_classes: 4, num_features: 1}}, seq_len: 16}}
optim: {{type: adamw, lr: 4e-3}}
schedule: {{type: constant}}
mup: {{type: mup, base_width: 8}}
parallel: {{engine: torch, strategy: single}}
train: {{steps: 12, global_batch_size: 8, micro_batch_size: 2}}
track: {{mlflow: {{enabled: false}}}}
cluster: {{type: local, nproc_per_node: 1}}
"""
COUNT = 1000
"""More than the probes see."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", generator.normal(size=(COUNT, 16, 1)).astype(np.float32))
    np.save(tmp_path / "y.npy", generator.integers(0, 4, COUNT))
    return tmp_path


def recipe_of(folder: Path, ranks: int, *overrides: str) -> Recipe:
    text = RECIPE.format(folder=folder)
    return compile_recipe(text, "r.yaml", (f"cluster.nproc_per_node={ranks}", *overrides)).recipe


def sample_of(folder: Path, data_step: int, row: int) -> int:
    """Number of the sample in a row of a global batch."""
    (windows,) = run_ranks(1, _windows, recipe_of(folder, 1), data_step)
    return int(windows[row])


def _windows(world: World, recipe: Recipe, data_step: int) -> list[int]:
    _, plan = make_engine(recipe, world)
    with open_data(recipe, plan, world) as data:
        return [int(window) for windows in data.batches.windows(data_step) for window in windows]


def _replay(world: World, recipe: Recipe, data_step: int, break_backward: bool = False) -> Found:
    engine, plan = make_engine(recipe, world)
    if break_backward:
        layer: Any = engine.model.get_submodule("layers.1")
        layer.register_forward_hook(_ruin_gradient)
    with open_data(recipe, plan, world) as data:
        return Replay(engine, data.batches, world).run(data_step)


def _ruin_gradient(_module: object, _inputs: object, output: torch.Tensor) -> None:
    output.register_hook(lambda grad: grad * np.inf)


@pytest.mark.parametrize(
    ("engine", "ranks"),
    [
        pytest.param(SINGLE, 1, id="single"),
        pytest.param(DDP, 2, id="ddp"),
        pytest.param(FSDP2, 2, id="fsdp2"),
        pytest.param(ZERO[2], 2, id="zero2", marks=pytest.mark.slow),
        pytest.param(ZERO[3], 2, id="zero3", marks=pytest.mark.slow),
    ],
)
def test_the_sample_and_the_first_module_are_named(folder: Path, engine: tuple[str, ...], ranks: int) -> None:
    sample = sample_of(folder, 5, row=6)
    x = np.load(folder / "x.npy")
    x[sample, 3] = np.inf
    np.save(folder / "x.npy", x)
    found = run_ranks(ranks, _replay, recipe_of(folder, ranks, *engine), 5)
    assert found == [Found(rank=ranks - 1, sample=sample, module="embedding")] * ranks


def test_the_first_module_of_the_backward_pass_is_named(folder: Path) -> None:
    (found,) = run_ranks(1, _replay, recipe_of(folder, 1), 5, True)
    assert (found.sample, found.direction) == (sample_of(folder, 5, row=0), "backward")
    assert found.module is not None
    assert found.module.startswith("layers.1")


def test_a_step_that_is_finite_alone_says_so(folder: Path) -> None:
    (found,) = run_ranks(1, _replay, recipe_of(folder, 1), 5)
    assert found.as_fields() == {}
    assert "every sample alone is finite" in found.text


def test_signals_that_a_probe_sees_are_refused(folder: Path) -> None:
    x = np.load(folder / "x.npy")
    x[0, 3] = np.nan  # the probes are evenly spaced from the first one
    np.save(folder / "x.npy", x)
    with pytest.raises(AssertionError, match=r"x.npy: has a value in sequence 0 that is NaN or infinite"):
        run_ranks(1, _replay, recipe_of(folder, 1), 5)
    assert torch.tensor(x).isnan().any()
