"""One truth: losses, norms, updates and state of every engine equal those of one process."""

import functools

import pytest
import torch

from tests.launcher.parallel.engines import DDP, FSDP2, HSDP, SINGLE, ZERO, Step, train_on

STEPS = 20
# Float32 keeps 24 bits. Engines and world sizes differ only in the order of sums: over the positions of a
# batch, split among ranks and micro batches, and over parameters in a norm. A sum of n terms in another order
# is off by about sqrt(n) 2^-24, here less than 40 * 6e-8 = 2.4e-6, and steps carry it on: Adam divides
# gradients near zero by their own size, so single weights may drift apart; the loss, a mean, does not.
LOSS = 1e-5
NORM = 1e-5

ENGINES = {
    "ddp": DDP,
    "fsdp2": FSDP2,
    "zero0": ZERO[0],
    "zero1": ZERO[1],
    "zero2": ZERO[2],
    "zero3": ZERO[3],
}
QUICK = [("ddp", 2), ("fsdp2", 2), ("zero1", 2), ("zero3", 2)]
MATRIX = [(name, ranks) for name in ENGINES for ranks in (1, 2, 4)]


@functools.cache
def alone(*overrides: str, steps: int) -> tuple[list[Step], dict[str, torch.Tensor]]:
    """The unsharded reference: one process, the same global batch."""
    return train_on(1, *SINGLE, *overrides, steps=steps)


def assert_same_training(found: list[Step], expected: list[Step]) -> None:
    for number, (step, reference) in enumerate(zip(found, expected, strict=True)):
        where = f"step {number}"
        assert step.loss == pytest.approx(reference.loss, rel=LOSS), where
        assert step.grad_norm == pytest.approx(reference.grad_norm, rel=NORM), where
        assert step.coefficient == pytest.approx(reference.coefficient, rel=NORM), where


@pytest.mark.parametrize(
    ("name", "ranks"),
    [
        pytest.param(name, ranks, marks=() if (name, ranks) in QUICK else pytest.mark.slow)
        for name, ranks in MATRIX
    ],
)
def test_every_engine_and_world_size_gives_the_losses_of_one_process(name: str, ranks: int) -> None:
    found, _ = train_on(ranks, *ENGINES[name], steps=STEPS)
    assert_same_training(found, alone(steps=STEPS)[0])


@pytest.mark.slow
def test_hsdp_two_by_two_gives_the_losses_of_one_process() -> None:
    found, _ = train_on(4, *HSDP, steps=STEPS)
    assert_same_training(found, alone(steps=STEPS)[0])


ADAMW, SGD = (), ("optim={type: sgd, lr: 0.5, momentum: 0.9, weight_decay: 0.01, grad_clip: 0.1}",)


@pytest.mark.parametrize("optim", [ADAMW, SGD], ids=["adamw", "sgd"])
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in ("fsdp2", "zero2") else pytest.mark.slow) for name in ENGINES],
)
def test_one_step_equals_the_unsharded_step(name: str, optim: tuple[str, ...]) -> None:
    """Under muP, so that groups have different rates, which an engine could mix up.

    eps keeps Adam from dividing rounding errors by their own size.
    """
    rest = optim or ("optim.eps=1e-3",)
    found, state = train_on(2, *ENGINES[name], *rest, steps=1)
    expected, reference = alone(*rest, steps=1)
    assert state.keys() == reference.keys()
    for key, value in state.items():
        assert value.shape == reference[key].shape, key
        assert float((value - reference[key]).abs().max()) <= 1e-6 * max(1.0, float(value.abs().max())), key
    assert_same_telemetry(found, expected)


def assert_same_telemetry(found: list[Step], expected: list[Step]) -> None:
    for step, reference in zip(found, expected, strict=True):
        # Parameters of tiny gradients carry the rounding of the large ones that they were summed from.
        size = reference.grad_norm
        assert step.norms == pytest.approx(reference.norms, rel=1e-5, abs=1e-6 * size)
        # A sum of n numbers is at most sqrt(n) norms, and n is below 4,096 here.
        assert step.sums == pytest.approx(reference.sums, rel=1e-5, abs=64e-6 * size)
        assert step.weights == pytest.approx(reference.weights, rel=1e-6)
        assert step.updates == pytest.approx(reference.updates, rel=1e-4)
        assert step.coefficient < 1.0, "else clipping is not tested"


@pytest.mark.parametrize(
    "name", ["ddp", "fsdp2", *(pytest.param(f"zero{stage}", marks=pytest.mark.slow) for stage in range(4))]
)
def test_gradient_accumulation_changes_nothing(name: str) -> None:
    found, _ = train_on(2, *ENGINES[name], "train.micro_batch_size=1", steps=3)
    assert_same_training(found, alone(steps=STEPS)[0][:3])
