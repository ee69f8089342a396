"""No engine applies an update that is not finite, on any rank, and training continues."""

from typing import Any

import pytest
import torch

from launcher.guard.config import OutlierConfig
from launcher.parallel import torch_engine
from launcher.parallel.engine import Engine
from launcher.parallel.gradients import clip_gradients
from launcher.parallel.update_guard import Agreed, UpdateGuard
from launcher.recipe.schema import Recipe
from launcher.world import World, world_on
from tests.launcher.parallel.engines import (
    DDP,
    FSDP2,
    HSDP,
    SINGLE,
    ZERO,
    make_batches,
    make_engine,
    recipe_for,
    whole_state,
)
from tests.ranks import run_ranks

ALONE = world_on("cpu")
ENGINES = [
    pytest.param(SINGLE, 1, id="single"),
    pytest.param(DDP, 2, id="ddp"),
    pytest.param(FSDP2, 2, id="fsdp2"),
    pytest.param(HSDP, 4, id="hsdp", marks=pytest.mark.slow),
    *(
        pytest.param(ZERO[n], 2, id=f"zero{n}", marks=pytest.mark.slow if n in (0, 1) else ())
        for n in range(4)
    ),
]


def poisoned(engine: Engine, world: World, value: float) -> Any:
    """The engine's module, whose loss on the last rank is to be multiplied by a value."""
    module: Any = torch_engine
    if not isinstance(engine, torch_engine.TorchEngine):
        from launcher.parallel.deepspeed import deepspeed_engine

        module = deepspeed_engine
    plain = module.loss_sum
    if world.rank == world.size - 1:
        module.loss_sum = lambda *arguments: plain(*arguments) * value
    return module, plain


def skip_in_the_middle(
    world: World, recipe: Recipe, value: float
) -> tuple[list[Agreed], list[dict[str, torch.Tensor]]]:
    """Two steps, one with a bad loss on one rank, two more; the states around the bad one, and the last."""
    engine, plan = make_engine(recipe, world)
    batches = make_batches(recipe, plan, world)
    agreed = [engine.train_step(batches.at(step), 1.0).agreed for step in range(2)]
    states = [whole_state(engine)]
    module, plain = poisoned(engine, world, value)
    agreed.append(engine.train_step(batches.at(2), 1.0, stop=world.rank == 0).agreed)
    module.loss_sum = plain
    states.append(whole_state(engine))
    agreed += [engine.train_step(batches.at(step), 1.0).agreed for step in (3, 4)]
    return agreed, [*states, whole_state(engine)]


@pytest.mark.parametrize(("engine", "ranks"), ENGINES)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_bad_loss_of_one_rank_changes_no_bit_on_any(
    engine: tuple[str, ...], ranks: int, value: float
) -> None:
    recipe = recipe_for(ranks, *engine)
    results = run_ranks(ranks, skip_in_the_middle, recipe, value)
    agreed, (before, after, end) = results[0]
    assert all(result[0] == agreed for result in results), "every rank knows the same at the same step"
    for name, kept in before.items():
        if not name.startswith("guard/"):
            assert torch.equal(kept, after[name]), name
    assert [found.skips for found in agreed] == [0, 0, 0, 1, 1], "known one step later, on all ranks"
    assert [found.skips_in_row for found in agreed] == [0, 0, 0, 1, 0]
    assert [found.bad_losses for found in agreed] == [0, 0, 0, 1, 0]
    assert [found.stop for found in agreed] == [False, False, True, False, False]
    assert all(value.isfinite().all() for value in end.values())
    assert any(not torch.equal(end[name], value) for name, value in after.items())


def test_states_carried_into_the_next_window_are_those_of_before() -> None:
    recipe = recipe_for(1, *SINGLE, "train.truncated_bptt=true")
    _, (before, after, end) = run_ranks(1, skip_in_the_middle, recipe, float("nan"))[0]
    carried = [name for name in before if name.startswith("carry/")]
    assert carried
    assert all(torch.equal(before[name], after[name]) for name in carried)
    assert all(not torch.equal(before[name], end[name]) for name in carried)


@pytest.mark.parametrize("size", [1e25, 1e30])
def test_a_huge_gradient_is_clipped_and_not_lost(size: float) -> None:
    pieces = [torch.full((3, 4), size), torch.full((4,), -size)]
    found = clip_gradients(("a", "b"), pieces, 1.0, None)
    assert float(found.total) == pytest.approx(4 * size)
    assert found.per_parameter.tolist() == pytest.approx([12**0.5 * size, 2 * size])
    assert float(found.coefficient) == pytest.approx(1 / (4 * size))
    assert float(torch.cat([piece.flatten() for piece in pieces]).norm()) == pytest.approx(1.0)


def decide(guard: UpdateGuard, norm: float) -> bool:
    return bool(guard.decide(torch.tensor(norm, dtype=torch.float64), torch.tensor(1.0)))


def test_outliers_are_skipped_once_the_window_is_full_and_do_not_enter_it() -> None:
    guard = UpdateGuard(OutlierConfig(window=8, factor=5.0), ALONE)
    assert not decide(guard, 1e6), "nothing to compare with yet"
    norms = [1.0, 1.1, 0.9, 1.0, 1.2, 0.8, 1.0]
    assert not any(decide(guard, norm) for norm in norms)
    # median 1.0, deviations 0, 0, 0, 0.1, 0.1, 0.2, 0.2 and a huge one: the limit is 1.0 + 5 x 0.1
    assert not decide(guard, 1.49)
    assert decide(guard, 1.51) or decide(guard, 3.0)
    assert all(decide(guard, 50.0) for _ in range(20)), "a row of outliers does not become the norm"
    assert guard.settled().skips_in_row >= 20
    assert not decide(guard, 1.0)


def test_constant_norms_make_no_outlier_of_a_rounding_error() -> None:
    guard = UpdateGuard(OutlierConfig(window=8, factor=2.0), ALONE)
    assert not any(decide(guard, 1.0) for _ in range(8))
    assert not decide(guard, 1.0 + 1e-6)
    assert decide(guard, 1.1)


def test_without_the_rule_only_what_is_not_finite_is_skipped() -> None:
    guard = UpdateGuard(None, ALONE)
    assert [decide(guard, norm) for norm in (1.0, 1e30, float("nan"), float("inf"), 1.0)] == [
        *(False, False, True, True, False)
    ]
    assert guard.settled().skips == 2
