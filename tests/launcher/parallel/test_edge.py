"""Sharpness in an optimizer's coordinates: known spectra, exact second derivatives, any sharding."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import LinearOperator, eigsh

from launcher.data.dataset import Batch
from launcher.parallel.edge import Coordinates, coordinates_of, largest_eigenvalue
from launcher.parallel.torch_engine import TorchEngine
from launcher.world import World
from tests.launcher.parallel.engines import DDP, FSDP2, SINGLE, make_batches, make_engine, recipe_for
from tests.ranks import run_ranks

SHAPES = [(3, 4), (5,), (0,), (2, 1)]


def pieces(values: torch.Tensor) -> list[torch.Tensor]:
    """One vector as parameters of SHAPES."""
    sizes = [int(np.prod(shape)) for shape in SHAPES]
    return [part.view(shape) for part, shape in zip(values.split(sizes), SHAPES, strict=True)]


@pytest.mark.parametrize("spectrum", [[5.0, 1.0], [2.0, -30.0, 1.9], [1e-1, 1e-2], [7.0] * 19])
def test_a_quadratic_has_its_known_largest_eigenvalue(spectrum: list[float]) -> None:
    torch.manual_seed(0)
    size = sum(int(np.prod(shape)) for shape in SHAPES)
    eigenvalues = torch.zeros(size)
    eigenvalues[: len(spectrum)] = torch.tensor(spectrum)
    basis = torch.linalg.qr(torch.randn(size, size))[0]
    scales = torch.rand(size) + 0.5
    hessian = basis @ torch.diag(eigenvalues) @ basis.T / scales / scales[:, None]
    weights = pieces(torch.randn(size))
    before = [weight.clone() for weight in weights]

    def gradients() -> list[torch.Tensor]:
        return pieces(hessian @ torch.cat([weight.flatten() for weight in weights]))

    found = largest_eigenvalue(gradients, weights, pieces(scales), None)
    assert found == pytest.approx(max(spectrum), rel=1e-2)
    assert all(torch.equal(a, b) for a, b in zip(weights, before, strict=True)), "weights end as they were"


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
def test_gradients_of_zero_or_not_finite_have_no_eigenvalue(value: float) -> None:
    weights = [torch.ones(3)]
    gradient = torch.full((3,), value)
    assert math.isnan(largest_eigenvalue(lambda: [gradient], weights, [torch.ones(3)], None))


def test_gradients_that_overflow_nearby_have_no_eigenvalue() -> None:
    weights = [torch.ones(3)]

    values = itertools.chain([1.0], itertools.repeat(math.inf))
    found = largest_eigenvalue(lambda: [torch.full((3,), next(values))], weights, [torch.ones(3)], None)
    assert math.isnan(found)
    assert torch.equal(weights[0], torch.ones(3)), "weights end as they were"


def diverges(curvature: float, make: str) -> bool:
    """Whether steps of torch's own optimizer leave the minimum of a parabola."""
    weight = torch.nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    if make == "sgd":
        optimizer: torch.optim.Optimizer = torch.optim.SGD([weight], lr=1.0, momentum=0.9)
    else:
        # With b2 next to 1 and after very many steps, v / (1 - b2^t) stays where it is put: here at 1, but
        # for g^2 (1 - b2) / (1 - b2^t), 1e-13 g^2.
        optimizer = torch.optim.Adam([weight], lr=1.0, betas=(0.9, 1 - 1e-15), eps=0.0)
    for step in range(3000):
        weight.grad = curvature * weight.detach()
        if make == "adam" and step:
            state = optimizer.state[weight]
            state["exp_avg_sq"].fill_(1 - (1 - 1e-15) ** (float(state["step"]) + 1))
        optimizer.step()
        if step == 0 and make == "adam":
            optimizer.state[weight]["step"].fill_(1e13)
        if abs(weight.item()) > 1e3:
            return True
    return False


@pytest.mark.parametrize(("make", "edge"), [("sgd", 3.8), ("adam", 38.0)])
def test_the_threshold_is_where_steps_diverge(make: str, edge: float) -> None:
    weight = torch.nn.Parameter(torch.ones(1))
    kinds = {"sgd": torch.optim.SGD([weight], lr=1.0, momentum=0.9), "adam": torch.optim.Adam([weight])}
    assert coordinates_of(kinds[make], [weight]).threshold == pytest.approx(edge)
    assert not diverges(0.99 * edge, make)
    assert diverges(1.01 * edge, make)


def test_coordinates_hold_each_group_s_own_rate() -> None:
    first, second = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW(
        [{"params": [second], "lr": 0.5}, {"params": [first], "lr": 0.25}], eps=1e-8
    )
    first.grad, second.grad = torch.tensor([2.0, -3.0]), torch.tensor([1.0, 4.0])
    optimizer.step()
    found: Coordinates = coordinates_of(optimizer, [first, second])
    # After one step, v corrected for its start is the gradient's square.
    expected = [torch.tensor([0.25 / 2, 0.25 / 3]).sqrt(), torch.tensor([0.5, 0.5 / 4]).sqrt()]
    for scale, right in zip(found.scales, expected, strict=True):
        torch.testing.assert_close(scale, right)


def measure(world: World, words: Sequence[str]) -> float:
    recipe = recipe_for(world.size, "parallel.precision=fp32", *words)
    engine, plan = make_engine(recipe, world)
    batches = make_batches(recipe, plan, world)
    for step in range(4):
        engine.train_step(batches.at(step), 1.0)
    return engine.sharpness(batches.at(3))


@pytest.fixture(scope="module")
def alone() -> float:
    return run_ranks(1, measure, SINGLE)[0]


@pytest.mark.parametrize("words", [FSDP2, DDP, (*FSDP2, "train.micro_batch_size=1")])
def test_sharpness_is_the_same_however_it_is_sharded(words: Sequence[str], alone: float) -> None:
    found = run_ranks(2, measure, words)
    assert found[0] == found[1]
    assert found[0] == pytest.approx(alone, rel=1e-4)


def exact(world: World, words: Sequence[str]) -> tuple[float, float]:
    """(by differences, by second derivatives and ARPACK)"""
    recipe = recipe_for(1, *SINGLE, *words)
    engine, plan = make_engine(recipe, world)
    assert isinstance(engine, TorchEngine)
    batches = make_batches(recipe, plan, world)
    for step in range(4):
        engine.train_step(batches.at(step), 1.0)
    found = engine.sharpness(batches.at(3))
    parameters = [p for _, p in engine.model.named_parameters()]
    here = coordinates_of(engine._optimizer, list(engine._parameters.values()))
    scales = torch.cat([scale.flatten() for scale in here.scales])
    gradient = torch.autograd.grad(mean_loss(engine, batches.at(3), world), parameters, create_graph=True)
    flat = torch.cat([one.flatten() for one in gradient])

    def product(vector: np.ndarray) -> np.ndarray:
        way = scales * torch.from_numpy(vector.astype(np.float32)).view(-1)
        back = torch.autograd.grad(flat @ way, parameters, retain_graph=True)
        return (scales * torch.cat([one.flatten() for one in back])).numpy()

    operator = LinearOperator((len(scales), len(scales)), matvec=product, dtype=np.float32)
    largest = float(eigsh(operator, k=1, which="LA", return_eigenvectors=False)[0])
    return found, largest / here.threshold


def mean_loss(engine: TorchEngine, batches: Sequence[Batch], world: World) -> torch.Tensor:
    """By all logits, which can be differentiated twice."""
    total = torch.zeros(())
    for batch in batches:
        logits = engine.model(batch.x)
        total = total + torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), batch.y.flatten(), reduction="sum"
        )
    return total / sum(batch.y.numel() for batch in batches)


# dt at fifty times its rate: that direction bends at once. In the quickstart, differences of a fixed length
# gave up to 200 times the eigenvalue.
BENT = ("optim.ssm.dt={lr: 0.05, lr_cap: null}", "data.seq_len=256", "model.s4d.dt_max=0.5")


@pytest.mark.parametrize("words", [(), BENT])
def test_differences_agree_with_second_derivatives(words: Sequence[str]) -> None:
    found, expected = run_ranks(1, exact, words)[0]
    assert found == pytest.approx(expected, rel=3e-3)


def test_measuring_changes_nothing() -> None:
    def states(world: World) -> bool:
        recipe = recipe_for(1, *SINGLE, "model.dropout=0.1")
        engine, plan = make_engine(recipe, world)
        batches = make_batches(recipe, plan, world)
        engine.train_step(batches.at(0), 1.0)
        before = {name: value.clone() for name, value in engine.state().items()}
        engine.sharpness(batches.at(0))
        return all(torch.equal(value, before[name]) for name, value in engine.state().items())

    assert run_ranks(1, states) == [True]
