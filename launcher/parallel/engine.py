"""Engine: who owns forward, backward and step, and what all engines share."""

import abc
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.distributed as dist
from torch import nn

from launcher.data.samples import IGNORED, Batch
from launcher.parallel.gradients import GradientNorms
from launcher.world import World

State = Mapping[str, torch.Tensor]
"""Parameters and optimizer moments, whole or as DTensors, keyed `model/NAME` and `optim/NAME/KEY`."""


class Engine(abc.ABC):
    """One training step and one resumable state, the same whatever is underneath."""

    @abc.abstractmethod
    def train_step(
        self, micro_batches: Sequence[Batch], lr_factor: float, *, measure: bool = False
    ) -> tuple[torch.Tensor, GradientNorms]:
        """Forward, backward and update. Returns this rank's share of the loss (see average) and the norms.

        Never waits for the device. `measure` adds the norms of weights and updates, which costs a copy of the
        weights: for log steps.
        """

    @abc.abstractmethod
    def average(self, loss: torch.Tensor) -> float:
        """The mean loss over the global batch from every rank's share; waits for the device."""

    @abc.abstractmethod
    def evaluate(self, micro_batches: Sequence[Batch]) -> float:
        """Mean loss per target over all ranks' batches; every rank brings as many as the others."""

    @abc.abstractmethod
    def state(self) -> State:
        """What a checkpoint keeps, the same under every engine. All ranks call it together."""

    @abc.abstractmethod
    def load(self, fill: Callable[[State], None]) -> None:
        """Take on a state: `fill` overwrites the tensors of one like `state()`'s. All ranks together."""


def loss_sum(model: nn.Module, batch: Batch, device: torch.device) -> torch.Tensor:
    """Cross-entropy summed over the targets that count, in float32."""
    x, y = batch.x.to(device, non_blocking=True), batch.y.to(device, non_blocking=True)
    lengths = () if batch.lengths is None else (batch.lengths.to(device, non_blocking=True),)
    logits = model(x, *lengths).float().flatten(0, -2)
    return nn.functional.cross_entropy(logits, y.flatten(), ignore_index=IGNORED, reduction="sum")


def count_targets(micro_batches: Sequence[Batch], world: World) -> torch.Tensor:
    """Targets that count in one step, over all ranks and micro batches."""
    count = torch.stack([(batch.y != IGNORED).sum() for batch in micro_batches]).sum()
    count = count.to(world.device, torch.float32)
    if world.size > 1:
        dist.all_reduce(count)
    return count


def average_loss(loss: torch.Tensor, world: World) -> float:
    """See Engine.average."""
    total = loss.clone()
    if world.size > 1:
        dist.all_reduce(total)
    return float(total / world.size)


@torch.no_grad()
def evaluate_model(model: nn.Module, micro_batches: Sequence[Batch], world: World) -> float:
    """See Engine.evaluate."""
    model.eval()
    sums = torch.zeros(2, device=world.device, dtype=torch.float64)
    for batch in micro_batches:
        sums[0] += loss_sum(model, batch, world.device)
        sums[1] += (batch.y != IGNORED).sum()
    if world.size > 1:
        dist.all_reduce(sums)
    return float(sums[0] / sums[1])


def make_moments(optimizer: torch.optim.Optimizer) -> None:
    """Create an optimizer's lazy state, for a checkpoint to fill.

    One step of zero rate and zero gradients makes it and moves no parameter; that it was counted is undone.
    """
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    for state in optimizer.state.values():
        if "step" in state:
            state["step"].zero_()
