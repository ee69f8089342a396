"""The DeepSpeed engine: ZeRO stages 0 to 3. The only door to deepspeed, imported when it is used."""

import contextlib
import logging
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, final

import deepspeed
import deepspeed.ops
import torch
import torch.distributed as dist
from torch import nn

from launcher.data.dataset import Batch
from launcher.parallel.deepspeed.zero_layout import LAYOUTS
from launcher.parallel.deepspeed.zero_state import ZeroState
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
    scale_lrs,
    set_skip,
    undo_buffers,
)
from launcher.parallel.gradients import UpdateMeasure, clip_gradients
from launcher.parallel.recurrent_state import RecurrentState
from launcher.parallel.update_guard import UpdateGuard
from launcher.world import World
from models.step_kernels import StepKernels


@final
class DeepSpeedEngine(Engine):
    """ZeRO over a float32 model and a torch optimizer with our groups; accumulation and clipping are ours."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        config: Mapping[str, Any],
        grad_clip: float | None,
        recurrent_state: RecurrentState | None,
        guard: UpdateGuard,
        world: World,
    ) -> None:
        _quieten()
        _join(world)
        parameters = dict(model.named_parameters())
        shapes = {name: parameter.shape for name, parameter in parameters.items()}
        self._engine: Any = deepspeed.initialize(
            model=model, optimizer=optimizer, config=dict(config), dist_init_required=False
        )[0]
        self._layout = LAYOUTS[config["zero_optimization"]["stage"]](self._engine, parameters, world.rank)
        self._state = ZeroState(self._layout, parameters, shapes, world)
        self.model = self._engine.module
        self.whole_weights = config["zero_optimization"]["stage"] < 3
        self.shard_index = 0
        self._parameters = parameters
        self._names = tuple(parameters)
        self._grad_clip = grad_clip
        self.recurrent_state = recurrent_state
        self.guard = guard
        self._world = world
        self._group = dist.group.WORLD if self._layout.fragmented and world.size > 1 else None
        self._peak_lrs = [group["lr"] for group in self._engine.optimizer.param_groups]
        self._state.make_moments()  # before the first step: one that is skipped must find them

    def train_step(
        self,
        micro_batches: Sequence[Batch],
        lr_multiplier: float,
        *,
        measure: bool = False,
        stop: bool = False,
    ) -> StepResult:
        """See Engine. DeepSpeed averages over ranks and, told not to, never over micro batches."""
        self._engine.train()
        for gradients in self._layout.leftovers if len(micro_batches) > 1 else ():
            gradients.zero_()
        share = self._world.size / self.guard.begin(count_targets(micro_batches), stop=stop)
        buffers = keep_buffers(self._engine)
        device, kernels = self._world.device, StepKernels()
        total = torch.zeros((), device=device)
        for position, batch in enumerate(micro_batches):
            kernels.last = position == len(micro_batches) - 1
            self._engine.set_gradient_accumulation_boundary(kernels.last)
            loss = loss_sum(self._engine, batch, device, self.recurrent_state, position, kernels) * share
            self._engine.backward(loss, scale_wrt_gas=False)
            total += loss.detach()
        norms = clip_gradients(self._names, self._gradients(), self._grad_clip, self._group, measure=measure)
        before = UpdateMeasure(self._weights(), self._group) if measure else None
        lrs = scale_lrs(self._engine.optimizer, self._peak_lrs, lr_multiplier)
        skip = self.guard.decide(norms.total, total)
        set_skip(self._layout.optimizer, skip)
        self._engine.step()
        undo_buffers(self._engine, buffers, skip)
        if self.recurrent_state is not None:
            self.recurrent_state.settle(skip)
        norms = norms if before is None else replace(norms, updates=before.finish())
        agreed = self.guard.agreed()
        return StepResult(loss=total, norms=norms, agreed=agreed, lr_multiplier=lr_multiplier, lrs=lrs)

    def replicas(self) -> Mapping[str, torch.Tensor]:
        """See Engine."""
        if self._layout.fragmented or self._world.size == 1:
            return {}
        moments = self._layout.optimizer.state
        return {
            f"{name}/{key}": value
            for name, parameter in self._parameters.items()
            for key, value in [("value", parameter.detach()), *moments[parameter].items()]
        }

    def precision(self) -> contextlib.AbstractContextManager[None]:
        """See Engine."""
        enabled = self._engine.torch_autocast_enabled()
        return torch.autocast(self._world.device.type, dtype=torch.bfloat16, enabled=enabled)

    def average(self, loss: torch.Tensor) -> float:
        """See Engine."""
        return average_loss(loss, self._world)

    def evaluate(self, micro_batches: Sequence[Batch], *, by_modules: bool = False) -> Evaluation:
        """See Engine."""
        return evaluate_model(
            self._engine, micro_batches, self._world, self.recurrent_state, by_modules=by_modules
        )

    def state(self) -> EngineState:
        """See Engine: copies in host memory, cut over the ranks."""
        carried = {} if self.recurrent_state is None else self.recurrent_state.read()
        return self._state.read() | average_buffers(self._engine, self._world) | carried | self.guard.state()

    def load(self, fill: Callable[[EngineState], None]) -> None:
        """See Engine."""
        state = self.state()
        fill(state)
        self._state.write(state)
        if self.recurrent_state is not None:
            self.recurrent_state.write(state)

    def _gradients(self) -> list[torch.Tensor]:
        nothing = torch.zeros(0, device=self._world.device)
        found = self._layout.gradients()
        return [found.get(id(parameter), nothing) for parameter in self._parameters.values()]

    def _weights(self) -> list[torch.Tensor]:
        nothing = torch.zeros(0, device=self._world.device)
        fragments = self._layout.fragments()
        return [fragments[name].weight if name in fragments else nothing for name in self._names]


def _quieten() -> None:
    """Warnings only; and no C++ build (102 s) of an all-reduce that only inference uses."""
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*`torch.distributed.* is deprecated", category=FutureWarning)
    # Probing every op of DeepSpeed runs compilers; none of them is used here.
    vars(deepspeed.ops)["__compatible_ops__"] = defaultdict(bool)


def _join(world: World) -> None:
    """DeepSpeed wants a process group even for one rank; without one it would look for MPI."""
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if world.device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
