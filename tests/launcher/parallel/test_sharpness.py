"""ASAM: equal to its formula step by step, and to itself under sharding and accumulation."""

from pathlib import Path

import pytest
import torch

from launcher.check.proxy import build_proxy, first_batch
from launcher.plan.plan import make_plan
from launcher.world import world_on
from tests.small_run import losses, small_recipe, train_run

SHARP = ("mup={type: sp}", "optim.sharpness={rho: 0.3, eta: 0.02}")


def test_a_step_is_that_of_the_paper() -> None:
    """Algorithm 1, with SGD and no clipping, on a copy of the model and by autograd alone."""
    sgd = ("optim.type=sgd", "optim.momentum=0", "optim.lr=0.3", "optim.grad_clip=null", "model.dropout=0")
    recipe = small_recipe(*SHARP, *sgd, "train.micro_batch_size=8", "model.readout_zero_init=false")
    batch = first_batch(recipe)
    proxy, twin = (build_proxy(recipe, batch, world_on("cpu")) for _ in range(2))
    proxy.train_step(1.0)
    weights = list(twin.model.parameters())
    rates = {name: group.lr for group in twin.plan.parameters.groups for name in group.parameters}

    def gradients() -> list[torch.Tensor]:
        logits = twin.model(batch.x)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.y.flatten())
        return list(torch.autograd.grad(loss, weights))

    with torch.no_grad():
        first = torch.enable_grad()(gradients)()
        sizes = [weight.abs() + 0.02 for weight in weights]
        norm = sum(float((t * g).double().square().sum()) for t, g in zip(sizes, first, strict=True)) ** 0.5
        before = [weight.clone() for weight in weights]
        for weight, size, gradient in zip(weights, sizes, first, strict=True):
            weight += 0.3 * size**2 * gradient / norm
        second = torch.enable_grad()(gradients)()
        for (name, _), kept, gradient in zip(twin.model.named_parameters(), before, second, strict=True):
            expected = kept - rates[name] * gradient
            found = proxy.model.get_parameter(name)
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
        moved = [(a - b).abs().max() for a, b in zip(first, second, strict=True)]
        assert float(max(moved)) > 1e-4, "the perturbation must matter, or this would test nothing"


def test_sharded_and_accumulated_steps_are_those_of_one_process(tmp_path: Path) -> None:
    plain = (*SHARP, "model.dropout=0", "train.steps=6", "checkpoint.every=6")
    whole = losses(train_run(tmp_path / "whole", *plain, "train.micro_batch_size=8"))
    parts = losses(train_run(tmp_path / "parts", *plain, "train.micro_batch_size=2"))
    sharded = losses(
        train_run(
            tmp_path / "sharded", *plain, "parallel.strategy=fsdp2", "cluster.nproc_per_node=2", ranks=2
        )
    )
    without = losses(train_run(tmp_path / "without", "mup={type: sp}", *plain[2:]))
    # sums in another order: 6e-8 each, through Adam's division
    assert parts == pytest.approx(whole, rel=2e-5)
    assert sharded == pytest.approx(whole, rel=2e-5)
    assert abs(without[-1] - whole[-1]) > 1e-4


def test_both_passes_drop_the_same_activations(tmp_path: Path) -> None:
    # With rho nearly zero the second pass is the first again, if its dropout is.
    plain = ("mup={type: sp}", "train.steps=5", "checkpoint.every=5", "model.dropout=0.3")
    sharp = losses(train_run(tmp_path / "sharp", *plain, "optim.sharpness={rho: 1e-12}"))
    assert sharp == pytest.approx(losses(train_run(tmp_path / "plain", *plain)), rel=1e-5)


def test_the_plan_counts_two_passes_and_a_copy_of_the_weights() -> None:
    plain, sharp = (make_plan(small_recipe(*words), 1) for words in (("mup={type: sp}",), SHARP))
    assert sharp.flops_per_token == 2 * plain.flops_per_token
    assert sharp.memory.optimizer - plain.memory.optimizer == plain.memory.parameters
