"""The torch engine: a single process, DDP, FSDP2 or HSDP, by how the model was wrapped."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import final

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

from launcher.data.dataset import Batch
from launcher.optim.config import SharpnessConfig
from launcher.parallel.edge import coordinates_of, largest_eigenvalue
from launcher.parallel.engine import (
    Engine,
    EngineState,
    Evaluation,
    StepResult,
    average_buffers,
    average_loss,
    count_targets,
    evaluate_model,
    keep_buffers,
    loss_sum,
    make_moments,
    scale_lrs,
    set_skip,
    undo_buffers,
)
from launcher.parallel.gradients import UpdateMeasure, clip_gradients
from launcher.parallel.mesh import SHARD_AXIS, local_shard, plain_name
from launcher.parallel.recurrent_state import RecurrentState
from launcher.parallel.sharpness import Perturbation
from launcher.parallel.update_guard import UpdateGuard
from launcher.world import World
from models.step_kernels import StepKernels


@final
class TorchEngine(Engine):
    """Plain torch. State and norms are those of the whole model; live tensors are sharded as the model is."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        grad_clip: float | None,
        sharpness: SharpnessConfig | None,
        precision: str,
        mesh: DeviceMesh | None,
        recurrent_state: RecurrentState | None,
        guard: UpdateGuard,
        world: World,
    ) -> None:
        self._model = model
        self.model = model.module if isinstance(model, DistributedDataParallel) else model
        self.whole_weights = mesh is None
        self.shard_index = mesh.get_local_rank(SHARD_AXIS) if mesh is not None else 0
        self._replicated = world.size > 1 and (mesh is None or mesh.ndim == 2)
        self._optimizer = optimizer
        self._grad_clip = grad_clip
        self._autocast = precision == "bf16"
        self.recurrent_state = recurrent_state
        self.guard = guard
        self._world = world
        # Taken once: FSDP2 puts unsharded tensors in the module's place whenever it has gathered them.
        self._parameters = {plain_name(name): p for name, p in model.named_parameters()}
        self._names = tuple(self._parameters)
        self._peak_lrs = [group["lr"] for group in optimizer.param_groups]
        self._shard_group = mesh.get_group(SHARD_AXIS) if mesh is not None else None
        self._perturbation = None if sharpness is None else Perturbation(sharpness, self._shard_group)
        # Before the first step: one that is skipped must find moments to leave alone.
        make_moments(optimizer)

    def train_step(
        self,
        micro_batches: Sequence[Batch],
        lr_multiplier: float,
        *,
        measure: bool = False,
        stop: bool = False,
    ) -> StepResult:
        """See Engine. Communication of gradients happens once, after the last micro batch."""
        self._model.train()
        # Gradients are averaged over ranks, hence the factor: each loss is a part of the global mean.
        share = self._world.size / self.guard.begin(count_targets(micro_batches), stop=stop)
        buffers = keep_buffers(self._model)
        if self._perturbation is None:
            total = self._accumulate(micro_batches, share)
        else:
            total = self._accumulate_nearby(micro_batches, share, self._perturbation)
        gradients = self._local_gradients()
        norms = clip_gradients(self._names, gradients, self._grad_clip, self._shard_group, measure=measure)
        before = UpdateMeasure(self._local_weights(), self._shard_group) if measure else None
        lrs = scale_lrs(self._optimizer, self._peak_lrs, lr_multiplier)
        skip = self.guard.decide(norms.total, total)
        set_skip(self._optimizer, skip)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        undo_buffers(self._model, buffers, skip)
        if self.recurrent_state is not None:
            self.recurrent_state.settle(skip)
        norms = norms if before is None else replace(norms, updates=before.finish())
        agreed = self.guard.agreed()
        return StepResult(loss=total, norms=norms, agreed=agreed, lr_multiplier=lr_multiplier, lrs=lrs)

    def _accumulate(
        self, micro_batches: Sequence[Batch], share: torch.Tensor, *, carried: bool = True
    ) -> torch.Tensor:
        """Gradients of all micro batches, averaged over ranks; this rank's part of the loss.

        `carried`: from the states that training has carried here, if there are any.
        """
        device, kernels = self._world.device, StepKernels()
        states = self.recurrent_state if carried else None
        total = torch.zeros((), device=device)
        for position, batch in enumerate(micro_batches):
            kernels.last = position == len(micro_batches) - 1
            with self._sync_gradients(last=kernels.last):
                with self.precision():
                    loss = loss_sum(self._model, batch, device, states, position, kernels) * share
                loss.backward()
            total += loss.detach()
        return total

    def _accumulate_nearby(
        self, micro_batches: Sequence[Batch], share: torch.Tensor, perturbation: Perturbation
    ) -> torch.Tensor:
        """The same at perturbed weights, with the same dropout; the loss is that of the unperturbed ones."""
        device = self._world.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            total = self._accumulate(micro_batches, share)
        perturbation.add(self._local_weights(), self._local_gradients())
        self._optimizer.zero_grad(set_to_none=True)
        self._accumulate(micro_batches, share)
        perturbation.take_back(self._local_weights())
        return total

    def average(self, loss: torch.Tensor) -> float:
        """See Engine."""
        return average_loss(loss, self._world)

    def evaluate(self, micro_batches: Sequence[Batch], *, by_modules: bool = False) -> Evaluation:
        """See Engine."""
        with self.precision():
            found = evaluate_model(
                self._model, micro_batches, self._world, self.recurrent_state, by_modules=by_modules
            )
        if isinstance(self._model, FSDPModule):
            self._model.reshard()  # without a backward the root would stay gathered
        return found

    def sharpness(self, micro_batches: Sequence[Batch]) -> float:
        """See Engine. In float32: bf16 would round a small move of the weights away."""
        counts = count_targets(micro_batches).to(self._world.device).float()
        if self._world.size > 1:
            dist.all_reduce(counts)
        share = self._world.size / counts

        def gradients() -> list[torch.Tensor]:
            with torch.enable_grad():
                self._accumulate(micro_batches, share, carried=False)
            found = [gradient.clone() for gradient in self._local_gradients()]
            self._optimizer.zero_grad(set_to_none=True)
            return found

        here = coordinates_of(self._optimizer, list(self._parameters.values()))
        autocast, self._autocast = self._autocast, False
        self._model.eval()
        try:
            found = largest_eigenvalue(gradients, self._local_weights(), here.scales, self._shard_group)
        finally:
            self._autocast = autocast
        return found / here.threshold

    def state(self) -> EngineState:
        """See Engine: live tensors, but for carried states."""
        carried = {} if self.recurrent_state is None else self.recurrent_state.read()
        buffers = average_buffers(self._model, self._world)
        return self._trained() | buffers | carried | self.guard.state()

    def _trained(self) -> dict[str, torch.Tensor]:
        entries = {f"model/{name}": parameter.detach() for name, parameter in self._parameters.items()}
        for name, parameter in self._parameters.items():
            for key, value in self._optimizer.state[parameter].items():
                entries[f"optim/{name}/{key}"] = value
        return entries

    def load(self, fill: Callable[[EngineState], None]) -> None:
        """See Engine."""
        state = self.state()
        fill(state)
        if self.recurrent_state is not None:
            self.recurrent_state.write(state)

    def replicas(self) -> Mapping[str, torch.Tensor]:
        """See Engine."""
        return {name: local_shard(value) for name, value in self._trained().items() if self._replicated}

    def precision(self) -> contextlib.AbstractContextManager[None]:
        """See Engine."""
        return torch.autocast(self._world.device.type, dtype=torch.bfloat16, enabled=self._autocast)

    def _local_gradients(self) -> list[torch.Tensor]:
        missing = [name for name, p in self._parameters.items() if p.grad is None]
        if missing:
            raise ValueError(
                f"{len(missing)} of {len(self._names)} parameters got no gradient, such as {missing[:3]}; "
                "every parameter must be used in the forward pass"
            )
        return [local_shard(p.grad) for p in self._parameters.values() if p.grad is not None]

    def _local_weights(self) -> list[torch.Tensor]:
        return [local_shard(p.detach()) for p in self._parameters.values()]

    def _sync_gradients(self, *, last: bool) -> contextlib.AbstractContextManager[None]:
        if isinstance(self._model, FSDPModule):
            self._model.set_requires_gradient_sync(last)
        if isinstance(self._model, DistributedDataParallel) and not last:
            return self._model.no_sync()
        return contextlib.nullcontext()
