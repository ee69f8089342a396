"""An update that is skipped leaves everything bit-equal, whatever the optimizer."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from launcher.optim.optimizer_table import OPTIMIZERS
from launcher.parallel.engine import make_moments, set_skip
from tests.launcher.optim.test_build_optimizer import TYPES

NO, YES = torch.zeros(()), torch.ones(())


def build(kind: str) -> tuple[list[torch.nn.Parameter], torch.optim.Optimizer]:
    """An optimizer over two matrices and a vector; the vector is AdamW's where matrices are updated apart."""
    torch.manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(size)) for size in [(6, 4), (4, 6), (5,)]]
    row = OPTIMIZERS[kind]
    config = row.section.model_validate({"type": kind, "lr": 1e-2, **TYPES[kind]})
    update = row.update(config)
    groups: list[dict[str, Any]] = [
        {"params": parameters[:2], "lr": 1e-2, "weight_decay": 0.1, "eps": 1e-8, "update": update},
        {"params": parameters[2:], "lr": 1e-2, "weight_decay": 0.1, "eps": 1e-8, "update": "adam"},
    ]
    optimizer = row.build(groups, config)
    make_moments(optimizer)
    return parameters, optimizer


def step(
    parameters: list[torch.nn.Parameter], optimizer: torch.optim.Optimizer, seed: int, skip: torch.Tensor
) -> None:
    torch.manual_seed(seed)
    for p in parameters:
        p.grad = torch.randn(p.shape) * (float("nan") if skip > 0 else 1.0)
    set_skip(optimizer, skip)
    optimizer.step()


def bits(parameters: list[torch.nn.Parameter], optimizer: torch.optim.Optimizer) -> Iterator[torch.Tensor]:
    for p in parameters:
        yield p.detach()
        yield from optimizer.state[p].values()


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("before", [0, 2])
def test_a_skipped_update_changes_no_bit(kind: str, before: int) -> None:
    parameters, optimizer = build(kind)
    for seed in range(before):
        step(parameters, optimizer, seed, NO)
    kept = copy.deepcopy(list(bits(parameters, optimizer)))
    step(parameters, optimizer, 9, YES)
    after = list(bits(parameters, optimizer))
    assert len(after) >= 3
    for old, new in zip(kept, after, strict=True):
        assert torch.equal(old, new)
        assert torch.equal(old.signbit(), new.signbit())


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_training_continues_as_if_the_skipped_update_had_never_been(kind: str) -> None:
    found, expected = build(kind), build(kind)
    for seed in range(4):
        if seed in (0, 2):
            step(*found, 100 + seed, YES)
        step(*found, seed, NO)
        step(*expected, seed, NO)
    for ours, theirs in zip(bits(*found), bits(*expected), strict=True):
        assert torch.equal(ours, theirs)
    assert not torch.equal(found[0][0], build(kind)[0][0])


@pytest.mark.parametrize(("kind", "nesterov"), [("sgd", False), ("sgd", True), ("adagrad", False)])
def test_ours_are_torchs(kind: str, nesterov: bool) -> None:
    ours, optimizer = build(kind)
    theirs, _ = build(kind)
    groups = [{"params": theirs, "lr": 1e-2, "weight_decay": 0.1}]
    if kind == "sgd":
        optimizer._nesterov = nesterov  # type: ignore[attr-defined]
        twin: Any = torch.optim.SGD(groups, momentum=0.9, nesterov=nesterov, foreach=False)
    else:
        twin = torch.optim.Adagrad(groups, eps=1e-8, foreach=False)
    for seed in range(5):
        step(ours, optimizer, seed, NO)
        for p, q in zip(ours, theirs, strict=True):
            q.grad = p.grad
        twin.step()
    for p, q in zip(ours, theirs, strict=True):
        assert torch.equal(p, q)
