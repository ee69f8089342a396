"""Losses over all ranks' samples, with their gradients, are those of one process that has all samples."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from launcher.parallel.across import across_ranks
from launcher.world import World
from models.auxiliary import ALONE, Across, batch_entropy, soft_neighbours
from tests.launcher.parallel.engines import DDP, FSDP2, SINGLE, ZERO, train_on
from tests.launcher.parallel.test_parity import assert_same_training
from tests.ranks import run_ranks
from tests.small_run import losses, train_run

Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Across], torch.Tensor]
LABELS = torch.tensor([0, 1, 0, 2, 1, 0, 2, 0])


def entropy_loss(x_BH: torch.Tensor, own_B: torch.Tensor, _y: torch.Tensor, across: Across) -> torch.Tensor:
    """A statistic of all samples times a loss of one's own, as the regularizer has it."""
    return own_B.mean() * (batch_entropy(x_BH, across) - 0.5) ** 2


def neighbour_loss(
    x_BH: torch.Tensor, own_B: torch.Tensor, y_B: torch.Tensor, across: Across
) -> torch.Tensor:
    near = soft_neighbours(across.gather(x_BH), across.gather(y_B), torch.tensor(0.7))
    return own_B.mean() + near


def gradient(world: World, loss: Loss, across: Across | None = None) -> tuple[float, list[float]]:
    """Mean over ranks of the loss, and of the gradient by a weight that all have."""
    inputs_BH = torch.randn(8, 5, generator=torch.Generator().manual_seed(3))
    weight = torch.linspace(0.5, 1.5, 5).requires_grad_()
    part = slice(world.rank * 8 // world.size, (world.rank + 1) * 8 // world.size)
    x_BH = torch.tanh(inputs_BH[part] * weight)
    found = loss(x_BH, x_BH.square().sum(1), LABELS[part], across or across_ranks(world))
    found.backward()
    assert weight.grad is not None
    both = torch.cat([found.detach()[None], weight.grad])
    if world.size > 1:
        torch.distributed.all_reduce(both)
    value, *gradients = (both / world.size).tolist()
    return value, gradients


@pytest.mark.parametrize("loss", [entropy_loss, neighbour_loss], ids=["entropy", "neighbours"])
@pytest.mark.parametrize("ranks", [2, 4])
def test_statistics_of_all_ranks_and_their_gradients_equal_one_process(loss: Loss, ranks: int) -> None:
    ((expected, slopes),) = run_ranks(1, gradient, loss)
    for found, found_slopes in run_ranks(ranks, gradient, loss):
        assert found == pytest.approx(expected, rel=1e-5)
        assert found_slopes == pytest.approx(slopes, rel=1e-4)
    apart, _ = run_ranks(ranks, gradient, loss, ALONE)[0]
    assert apart != pytest.approx(expected, rel=1e-3), "with each rank's own samples it is something else"


ENTROPY = ("model.batch_entropy={weight: 2.0, target: 0.1, least_target: 0}", "train.micro_batch_size=8")


@pytest.mark.parametrize(
    "engine",
    [DDP, FSDP2, pytest.param(ZERO[2], marks=pytest.mark.slow), ZERO[3]],
    ids=["ddp", "fsdp2", "zero2", "zero3"],
)
def test_a_regularized_training_is_the_same_under_every_engine(engine: tuple[str, ...]) -> None:
    expected, _ = train_on(1, *SINGLE, *ENTROPY, steps=5)
    plain, _ = train_on(1, *SINGLE, steps=5)
    assert expected[0].loss > 1.01 * plain[0].loss, "else nothing is regularized"
    assert expected[0].norms["batch_entropy.target"] > 0
    found, _ = train_on(2, *engine, *ENTROPY, steps=5)
    assert_same_training(found, expected)


NEIGHBOURS = (
    "model={type: classifier, num_classes: 10, encoder: {type: linear, num_features: 1}, d_model: 16,"
    " num_layers: 1, readout_zero_init: false, soft_neighbours: {weight: 2.0, temperature: 0.1}}",
    "data={source: {type: digits}, seq_len: 64}",
    "train={steps: 6, global_batch_size: 16, micro_batch_size: 16}",
)


@pytest.fixture(scope="module")
def neighbours_alone(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    return losses(train_run(tmp_path_factory.mktemp("alone"), *NEIGHBOURS))


@pytest.mark.parametrize("engine", [DDP, FSDP2, ZERO[3]], ids=["ddp", "fsdp2", "zero3"])
def test_a_classifier_s_neighbours_are_the_same_under_every_engine(
    engine: tuple[str, ...], neighbours_alone: list[float], tmp_path: Path
) -> None:
    found = losses(train_run(tmp_path, *NEIGHBOURS, *engine, ranks=2))
    # Five steps carry on sums in another order; see test_parity.
    assert found == pytest.approx(neighbours_alone, rel=1e-5)
    assert neighbours_alone[0] > 3.0, "ln 10 is 2.3: the neighbours are in it"
