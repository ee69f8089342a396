"""Ranks and micro batches of unequal numbers of targets: one global mean, one norm, one validation."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from torch.distributed.tensor import DTensor

from launcher.data.batches import validation_batches, validation_windows
from launcher.data.dataset import Batch
from launcher.parallel.engine import Evaluation
from launcher.recipe.schema import Recipe
from launcher.world import World
from models.loss import IGNORED
from tests.launcher.parallel.engines import (
    DDP,
    FSDP2,
    SINGLE,
    ZERO,
    make_batches,
    make_engine,
    make_samples,
    recipe_for,
)
from tests.ranks import run_ranks

ENGINES = {"ddp": DDP, "fsdp2": FSDP2} | {f"zero{stage}": engine for stage, engine in enumerate(ZERO)}
LIMIT = 0.1
# No momentum and no decay: what a step adds to a weight is its group's rate times the clipped gradient.
GRADIENT_STEP = (f"optim={{type: sgd, lr: 1, momentum: 0, weight_decay: 0, grad_clip: {LIMIT}}}",)
# Targets that count in each sequence of the global batch of 8. On two ranks with two micro batches each:
# 52 and 4 on rank 0, none and 11 on rank 1.
COUNTED = (32, 20, 3, 1, 0, 0, 9, 2)
# Over two ranks of two sequences a forward, 5 are padded to 8: four on rank 0, one on rank 1.
VALIDATION_SEQUENCES = 5


@dataclass(frozen=True)
class Measured:
    """What one rank saw of one training step and a validation before and after it."""

    loss: float
    grad_norm: float
    norms: torch.Tensor
    applied: torch.Tensor
    """Norm of each parameter's gradient as the optimizer applied it."""
    rounding: torch.Tensor
    """How far a norm in `applied` may be off: an update is a difference of weights of 24 bits."""
    before: Evaluation
    after: Evaluation
    whole_parameters: tuple[str, ...]
    """Parameters that are not sharded after a validation."""


def leave_out(batches: Sequence[Batch], first_row: int) -> list[Batch]:
    """The batches with only COUNTED targets in each row, counted from a row of the global batch."""
    left = []
    for batch in batches:
        counted = torch.tensor(COUNTED[first_row : first_row + len(batch.y)])[:, None]
        left.append(
            replace(batch, y=batch.y.where(torch.arange(batch.y.shape[1]) < counted, torch.tensor(IGNORED)))
        )
        first_row += len(batch.y)
    return left


def measure_rank(world: World, recipe: Recipe) -> Measured:
    engine, plan = make_engine(recipe, world)
    micro_batches = leave_out(
        make_batches(recipe, plan, world).at(0), world.rank * len(COUNTED) // world.size
    )
    samples = make_samples(recipe)
    validation = list(
        validation_batches(
            samples,
            validation_windows(samples, VALIDATION_SEQUENCES),
            micro_batch_size=plan.batch.micro_batch_size,
            rank=world.rank,
            world_size=world.size,
        )
    )
    before = engine.evaluate(validation)
    model = vars(engine)["_model"] if recipe.parallel.engine == "torch" else torch.nn.Module()
    whole = tuple(name for name, tensor in model.named_parameters() if not isinstance(tensor, DTensor))
    taken = engine.train_step(micro_batches, 1.0, measure=True)
    norms = taken.norms
    assert norms.updates is not None
    rates = {name: group.lr for group in plan.parameters.groups for name in group.parameters}
    rate = torch.tensor([rates[name] for name in norms.names])
    return Measured(
        loss=engine.average(taken.loss),
        grad_norm=float(norms.total),
        norms=norms.per_parameter.clone(),
        applied=norms.updates.update / rate,
        rounding=2**-24 * norms.updates.weight / rate,
        before=before,
        after=engine.evaluate(validation),
        whole_parameters=whole,
    )


@functools.cache
def measure(ranks: int, *engine: str) -> list[Measured]:
    """Every rank's view of the same step."""
    recipe = recipe_for(ranks, *engine, *GRADIENT_STEP, f"train.micro_batch_size={4 // ranks}")
    if recipe.parallel.engine == "deepspeed":
        import launcher.parallel.deepspeed.deepspeed_engine  # noqa: F401 - once, in the parent of all ranks
    return run_ranks(ranks, measure_rank, recipe)


@pytest.mark.parametrize("name", ENGINES)
def test_every_target_weighs_the_same_wherever_it_is(name: str) -> None:
    (alone,) = measure(1, *SINGLE)
    for rank in measure(2, *ENGINES[name]):
        # sums of less than 100 terms in another order: see test_parity
        assert rank.loss == pytest.approx(alone.loss, rel=1e-5)
        assert rank.grad_norm == pytest.approx(alone.grad_norm, rel=1e-5)
        torch.testing.assert_close(rank.norms, alone.norms, rtol=1e-4, atol=1e-6 * alone.grad_norm)


@pytest.mark.parametrize("name", ["single", *ENGINES])
def test_a_gradient_above_the_limit_is_applied_at_the_limit(name: str) -> None:
    ranks = measure(1, *SINGLE) if name == "single" else measure(2, *ENGINES[name])
    for rank in ranks:
        assert rank.grad_norm > 2 * LIMIT, "else clipping is not tested"
        assert float(rank.applied.norm()) == pytest.approx(LIMIT, abs=float(rank.rounding.norm()) + 1e-6)
        clipped = rank.norms * LIMIT / rank.grad_norm
        assert bool(((rank.applied - clipped).abs() <= rank.rounding + 1e-5 * clipped + 1e-8).all())


@pytest.mark.parametrize("name", ENGINES)
def test_validation_over_ranks_is_that_of_one_process(name: str) -> None:
    (alone,) = measure(1, *SINGLE)
    for rank in measure(2, *ENGINES[name]):
        assert rank.before.loss == pytest.approx(alone.before.loss, rel=1e-6)
        assert rank.after.loss == pytest.approx(alone.after.loss, rel=1e-5)
        # one of 5 x 32 targets may be a tie that rounding decides
        assert rank.before.accuracy == pytest.approx(alone.before.accuracy, abs=1.01 / (5 * 32))
    assert alone.before.loss != alone.after.loss


def test_after_a_validation_all_parameters_are_sharded_again() -> None:
    """A validation has no backward, which is what frees the root's gathered parameters in training."""
    assert [rank.whole_parameters for rank in measure(2, *FSDP2)] == [(), ()]
