"""Engine: who owns forward, backward and step, and what all engines share."""

import abc
import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn

from launcher.data.dataset import Batch
from launcher.parallel.gradients import GradientNorms
from launcher.parallel.mesh import plain_name
from launcher.parallel.recurrent_state import RecurrentState
from launcher.parallel.update_guard import Agreed, UpdateGuard
from launcher.world import World
from models.loss import IGNORED, scores
from models.step_kernels import StepKernels

EngineState = Mapping[str, torch.Tensor]
"""Parameters, optimizer moments, buffers and carried states, whole or as DTensors, keyed `model/NAME`,
`optim/NAME/KEY`, `buffer/NAME`, `carry/LAYER/PART` and `guard/NAME`."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a model is worth on some batches, over the targets that count."""

    loss: float
    """Mean per target."""
    accuracy: float
    """Fraction of targets that the most likely symbol or class hits."""
    bits_per_byte: float | None = None
    """The loss by byte of text, where the bytes of the targets are known."""
    loss_by_part: Mapping[str, float] | None = None
    """Of each part of a mixture, of which `loss` is the mean by weight."""
    bits_per_byte_by_part: Mapping[str, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """What one training step did. Tensors are on the device: reading one waits for it."""

    loss: torch.Tensor
    """This rank's share, for Engine.average."""
    norms: GradientNorms
    agreed: Agreed
    lr_multiplier: float
    """The schedule's, as the step was taken with it."""
    lrs: Mapping[str, float]
    """Learning rate that the optimizer held for each group, by the group's name."""


class Engine(abc.ABC):
    """One training step and one resumable state, the same whatever is underneath."""

    @abc.abstractmethod
    def train_step(
        self,
        micro_batches: Sequence[Batch],
        lr_multiplier: float,
        *,
        measure: bool = False,
        stop: bool = False,
    ) -> StepResult:
        """Forward, backward and update, at every group's peak rate times `lr_multiplier`.

        An update of a gradient that is not finite is not applied. Never waits for work of this step.
        `measure` adds sums of gradients, and norms of weights and updates, for a copy of the weights.
        `stop`: this rank has been asked to stop.
        """

    guard: UpdateGuard
    """What decides on each update."""
    model: nn.Module
    """As it can be called outside of a step."""
    recurrent_state: RecurrentState | None
    whole_weights: bool
    """Whether every rank has all weights, so that it can differentiate alone."""

    shard_index: int
    """Ranks with the same one hold the same replicas."""

    @abc.abstractmethod
    def replicas(self) -> Mapping[str, torch.Tensor]:
        """This rank's pieces of what other ranks hold as well, live; empty where nothing is replicated."""

    @abc.abstractmethod
    def precision(self) -> contextlib.AbstractContextManager[None]:
        """In which the model computes as in a step."""

    @abc.abstractmethod
    def average(self, loss: torch.Tensor) -> float:
        """The mean loss over the global batch from every rank's share; waits for the device."""

    @abc.abstractmethod
    def evaluate(self, micro_batches: Sequence[Batch], *, by_modules: bool = False) -> Evaluation:
        """Loss and accuracy over all ranks' batches; every rank brings as many as the others.

        `by_modules`: each module makes its own output, logits and kernels too, as whoever hooks it expects.
        """

    def sharpness(self, micro_batches: Sequence[Batch]) -> float:
        """Largest eigenvalue of the Hessian in the optimizer's coordinates, as a share of the one at which
        steps diverge: see launcher/parallel/edge.py. Some 50 gradients, without dropout.

        Raises NotImplementedError where gradients exist only inside a step.
        """
        raise NotImplementedError("gradients exist only inside a step")

    @abc.abstractmethod
    def state(self) -> EngineState:
        """What a checkpoint keeps, the same under every engine. All ranks call it together."""

    @abc.abstractmethod
    def load(self, fill: Callable[[EngineState], None]) -> None:
        """Take over a state: `fill` overwrites the tensors of one like `state()`'s. All ranks together."""


def loss_sum(
    model: nn.Module,
    batch: Batch,
    device: torch.device,
    recurrent_state: RecurrentState | None,
    micro: int,
    kernels: StepKernels,
) -> torch.Tensor:
    """Cross-entropy summed over the targets that count, in float32; from recurrent states where there are."""
    return _score(model, batch, device, recurrent_state, micro, kernels)[0]


def _score(
    model: nn.Module,
    batch: Batch,
    device: torch.device,
    recurrent_state: RecurrentState | None,
    micro: int,
    kernels: StepKernels | None,
) -> torch.Tensor:
    """See models.loss.scores; without kernels, by way of all logits and of each layer's own kernels."""
    x, y = batch.x.to(device, non_blocking=True), batch.y.to(device, non_blocking=True)
    states = recurrent_state.before(batch, micro) if recurrent_state is not None else None
    found: torch.Tensor
    head = {} if kernels is None else {"targets": y, "kernels": kernels}
    if recurrent_state is None or states is None:
        lengths = () if batch.lengths is None else (batch.lengths.to(device, non_blocking=True),)
        apart = {} if batch.documents is None else {"documents": batch.documents.to(device)}
        found = model(x, *lengths, **apart, **head)
    else:
        found, after = model(x, states, **head)
        recurrent_state.keep(after, micro)
    return scores(found.flatten(0, -2), y.flatten()) if kernels is None else found


def count_targets(micro_batches: Sequence[Batch]) -> torch.Tensor:
    """Targets of this rank that count in one step, over all micro batches; in host memory, as they are."""
    return torch.stack([(batch.y != IGNORED).sum() for batch in micro_batches]).sum()


def keep_buffers(model: nn.Module) -> dict[str, torch.Tensor]:
    """Copies of buffers that a forward pass of training changes, for undo_buffers; small."""
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


def undo_buffers(model: nn.Module, before: Mapping[str, torch.Tensor], skip: torch.Tensor) -> None:
    """Where `skip` is 1, give buffers the values that they had."""
    for name, buffer in model.named_buffers():
        torch.where(skip.to(buffer.device) > 0, before[name], buffer, out=buffer)


def average_loss(loss: torch.Tensor, world: World) -> float:
    """See Engine.average."""
    total = loss.clone()
    if world.size > 1:
        dist.all_reduce(total)
    return float(total / world.size)


@torch.no_grad()
def evaluate_model(
    model: nn.Module,
    micro_batches: Sequence[Batch],
    world: World,
    recurrent_state: RecurrentState | None,
    *,
    by_modules: bool = False,
) -> Evaluation:
    """See Engine.evaluate. States of training are left alone."""
    recurrent_state = recurrent_state.fresh() if recurrent_state is not None else None
    average_buffers(model, world)
    model.eval()
    # sums and counts over all ranks, then one division: a mean of means would weigh short batches more
    kernels = None if by_modules else StepKernels()
    sums = torch.zeros(3, device=world.device, dtype=torch.float64)
    for position, batch in enumerate(micro_batches):
        sums[:2] += _score(model, batch, world.device, recurrent_state, position, kernels)
        sums[2] += (batch.y != IGNORED).sum()
    if world.size > 1:
        dist.all_reduce(sums)
    loss, hits, count = sums.tolist()
    return Evaluation(loss=loss / count, accuracy=hits / count)


@torch.no_grad()
def average_buffers(model: nn.Module, world: World) -> dict[str, torch.Tensor]:
    """Make the buffers (batch norm's running averages) the mean over ranks, each of which has seen only its
    own sequences, and return them, live and keyed as EngineState says. All ranks together."""
    buffers = {f"buffer/{plain_name(name)}": buffer for name, buffer in model.named_buffers()}
    if world.size > 1:
        for buffer in buffers.values():
            dist.all_reduce(buffer)
            buffer /= world.size
    return buffers


def scale_lrs(
    optimizer: torch.optim.Optimizer, peak_lrs: Sequence[float], lr_multiplier: float
) -> dict[str, float]:
    """Set every group's rate for the step to come; returns what the groups then hold, by name."""
    for group, peak_lr in zip(optimizer.param_groups, peak_lrs, strict=True):
        group["lr"] = peak_lr * lr_multiplier
    return {group["name"]: group["lr"] for group in optimizer.param_groups}


def set_skip(optimizer: torch.optim.Optimizer, skip: torch.Tensor) -> None:
    """Whether the next step changes nothing: torch's attribute, which all optimizers of the table know."""
    optimizer.found_inf = skip  # type: ignore[attr-defined]


def make_moments(optimizer: torch.optim.Optimizer) -> None:
    """Create an optimizer's lazy state, for a checkpoint to fill.

    One step of zero rate and zero gradients makes it and moves no parameter; that it was counted is undone.
    """
    # Zero gradients leave the moments at zero. So must the decay, which SGD and Adagrad add to the gradient.
    before = [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = group["weight_decay"] = 0.0
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    for group, (rate, decay) in zip(optimizer.param_groups, before, strict=True):
        group["lr"], group["weight_decay"] = rate, decay
    for state in optimizer.state.values():
        if "step" in state:
            state["step"].zero_()
