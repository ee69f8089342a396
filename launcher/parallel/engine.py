"""Engine: who owns forward, backward and step. The torch engine: single, DDP, FSDP2, HSDP."""

import abc
import contextlib
from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from launcher.data.batches import Batch
from launcher.parallel.gradients import GradientNorms, clip_gradients
from launcher.parallel.mesh import SHARD_AXIS, plain_name
from launcher.world import World

IGNORED = -100


class Engine(abc.ABC):
    """One training step and one resumable state, the same whatever is underneath."""

    @abc.abstractmethod
    def train_step(self, micro_batches: Sequence[Batch], lr_factor: float) -> tuple[torch.Tensor, GradientNorms]:
        """Forward, backward and update. Returns this rank's share of the loss (see average) and the norms."""

    @abc.abstractmethod
    def average(self, loss: torch.Tensor) -> float:
        """The mean loss over the global batch from every rank's share; waits for the device."""

    @abc.abstractmethod
    def evaluate(self, micro_batches: Sequence[Batch]) -> float:
        """Mean loss per target over all ranks' batches; every rank must bring as many batches as the others."""

    @abc.abstractmethod
    def state(self) -> dict[str, torch.Tensor]:
        """Parameters and optimizer moments as live tensors, keyed `model/NAME` and `optim/NAME/KEY`."""


class TorchEngine(Engine):
    """Plain torch: a single process, DDP, FSDP2 or HSDP, by how the model was wrapped."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        grad_clip: float | None,
        precision: str,
        mesh: DeviceMesh | None,
        world: World,
    ) -> None:
        self._model = model
        self._optimizer = optimizer
        self._grad_clip = grad_clip
        self._autocast = precision == "bf16"
        self._world = world
        # Taken once: FSDP2 puts unsharded tensors in the module's place whenever it has gathered them.
        self._named = {plain_name(name): p for name, p in model.named_parameters()}
        self._parameters = list(self._named.values())
        self._peaks = [group["lr"] for group in optimizer.param_groups]
        self._shard_group = mesh.get_group(SHARD_AXIS) if mesh is not None else None

    def train_step(self, micro_batches: Sequence[Batch], lr_factor: float) -> tuple[torch.Tensor, GradientNorms]:
        """See Engine. Communication of gradients happens once, behind the last micro batch."""
        self._model.train()
        count = self._global_count(micro_batches)
        # Gradients are averaged over ranks, hence the factor: each loss is a share of the global mean.
        share = self._world.size / count
        total = torch.zeros((), device=self._world.device)
        for position, batch in enumerate(micro_batches):
            with self._sync_gradients(last=position == len(micro_batches) - 1):
                loss = self._loss_sum(batch) * share
                loss.backward()
            total += loss.detach()
        norms = clip_gradients(self._parameters, self._grad_clip, self._shard_group)
        for group, peak in zip(self._optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = peak * lr_factor
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return total, norms

    def average(self, loss: torch.Tensor) -> float:
        """See Engine."""
        if self._world.size > 1:
            dist.all_reduce(loss)
        return float(loss / self._world.size)

    @torch.no_grad()
    def evaluate(self, micro_batches: Sequence[Batch]) -> float:
        """See Engine."""
        self._model.eval()
        sums = torch.zeros(2, device=self._world.device, dtype=torch.float64)
        for batch in micro_batches:
            sums[0] += self._loss_sum(batch)
            sums[1] += (batch.y != IGNORED).sum()
        if isinstance(self._model, FSDPModule):
            self._model.reshard()  # without a backward the root would stay gathered
        if self._world.size > 1:
            dist.all_reduce(sums)
        return float(sums[0] / sums[1])

    def state(self) -> dict[str, torch.Tensor]:
        """See Engine. Moments are made (as after a step of zero rate) where no step was taken yet."""
        if not self._optimizer.state:
            make_optimizer_state(self._optimizer)
        entries = {f"model/{name}": parameter.detach() for name, parameter in self._named.items()}
        for name, parameter in self._named.items():
            for key, value in self._optimizer.state[parameter].items():
                entries[f"optim/{name}/{key}"] = value
        return entries

    def _loss_sum(self, batch: Batch) -> torch.Tensor:
        x_BL = batch.x.to(self._world.device, non_blocking=True)
        y_BL = batch.y.to(self._world.device, non_blocking=True)
        with torch.autocast(self._world.device.type, dtype=torch.bfloat16, enabled=self._autocast):
            logits_BLV = self._model(x_BL)
        return F.cross_entropy(
            logits_BLV.float().flatten(0, -2), y_BL.flatten(), ignore_index=IGNORED, reduction="sum"
        )

    def _global_count(self, micro_batches: Sequence[Batch]) -> torch.Tensor:
        count = torch.stack([(batch.y != IGNORED).sum() for batch in micro_batches]).sum()
        count = count.to(self._world.device, torch.float32)
        if self._world.size > 1:
            dist.all_reduce(count)
        return count

    def _sync_gradients(self, *, last: bool) -> contextlib.AbstractContextManager[None]:
        if isinstance(self._model, FSDPModule):
            self._model.set_requires_gradient_sync(last)
        if isinstance(self._model, DistributedDataParallel) and not last:
            return self._model.no_sync()
        return contextlib.nullcontext()


def make_optimizer_state(optimizer: torch.optim.Optimizer) -> None:
    """Create an optimizer's lazy state by one step of zero rate and zero gradients, which moves no parameter."""
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


def check_state_names(saved: Mapping[str, object], current: Mapping[str, object]) -> list[str]:
    """Entries that only one of two states has, one line each."""
    return [f"{name}: only in the checkpoint" for name in saved if name not in current] + [
        f"{name}: not in the checkpoint" for name in current if name not in saved
    ]
