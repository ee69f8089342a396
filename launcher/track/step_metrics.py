"""Metrics between two logged steps: times from the phase clock, clipping counted on the device."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import final

import torch

from launcher.clock import Clock
from launcher.data.open_data import Validation
from launcher.optim.groups import Group
from launcher.parallel.engine import Evaluation, StepResult
from launcher.parallel.gradients import GradientNorms
from launcher.plan.plan import Plan
from launcher.plan.step_work import StepWork, step_work
from launcher.recipe.schema import Recipe
from launcher.track.energy import EnergyMeter, open_counters
from launcher.track.machine import MachineMeter
from launcher.track.nvml import open_nvml
from launcher.track.records import StepRecord, ValidationRecord
from launcher.world import World


@final
class StepMetrics:
    """Counts steps since the last record. `add` never waits for the device; `record` does."""

    def __init__(
        self,
        base_lr: float,
        work: StepWork,
        groups: Sequence[Group],
        clock: Clock,
        energy: EnergyMeter | None = None,
        machine: MachineMeter | None = None,
    ) -> None:
        self._base_lr = base_lr
        self._energy, self._machine = energy, machine
        self._work = work
        self._group_of = {name: group.name for group in groups for name in group.parameters}
        self._clock = clock
        self._has_recorded = False
        clock.lap()  # what was before does not count
        self._reset()

    def _reset(self) -> None:
        self._steps = 0
        self._clipped: torch.Tensor | None = None

    def add(self, taken: StepResult) -> None:
        """Count one step."""
        # The count stays a tensor on the device. float() here would wait for the step to finish, each step,
        # and the next one could not be queued meanwhile.
        clipped = taken.norms.coefficient < 1.0
        self._clipped = clipped.int() if self._clipped is None else self._clipped + clipped
        self._steps += 1

    def record(self, step: int, taken: StepResult, loss: float) -> StepRecord:
        """The record of the step just taken and of the steps since the last record; resets the counts."""
        assert self._clipped is not None, "record comes after add"
        norms = taken.norms
        total, coefficient = float(norms.total), float(norms.coefficient)
        clip_fraction = float(self._clipped) / self._steps
        gradients = named(norms.names, norms.per_parameter.tolist())
        # Reading the numbers above has waited for the device, so the lap covers finished steps. Before them,
        # it would measure how fast steps are queued.
        lap = self._clock.lap()
        step_time_s = lap.training_s / self._steps
        device, on_gpu = norms.total.device, norms.total.device.type == "cuda"
        record = StepRecord(
            step=step,
            loss=loss,
            lr=self._base_lr * taken.lr_multiplier,
            lr_group=taken.lrs,
            grad_norm=total,
            grad_norm_clipped=total * coefficient,
            clip_coefficient=coefficient,
            clip_fraction=clip_fraction,
            tokens=step * self._work.tokens,
            tokens_per_s=self._work.tokens / step_time_s,
            step_time_s=step_time_s,
            data_wait_s=lap.phases_s["data"] / self._steps,
            phases_s={name: round(seconds, 4) for name, seconds in lap.phases_s.items()},
            first_step_s=None if self._has_recorded else self._clock.first_step_s,
            grad_norm_group=combine_norms(gradients, self._group_of.__getitem__),
            grad_norm_layer=combine_norms(gradients, layer_of),
            update_ratio_group=self._update_ratios(norms, self._group_of.__getitem__),
            update_ratio_layer=self._update_ratios(norms, layer_of),
            grad_mean_layer=self._mean_gradients(norms),
            mfu=self._work.flops / self._work.peak_flops / step_time_s if self._work.peak_flops else None,
            energy_kwh=self._energy.kwh() if self._energy is not None else None,
            memory_gb=torch.cuda.max_memory_allocated(device) / 1e9 if on_gpu else None,
            memory_now_gb=torch.cuda.memory_allocated(device) / 1e9 if on_gpu else None,
            memory_reserved_gb=torch.cuda.memory_reserved(device) / 1e9 if on_gpu else None,
            gpu=self._machine.gpus() if self._machine is not None else None,
            traced=self._clock.traced(),
            system=self._machine.system() if self._machine is not None else None,
        )
        self._reset()
        self._has_recorded = True
        return record

    def _mean_gradients(self, norms: GradientNorms) -> dict[str, float] | None:
        if norms.sums is None:
            return None
        sums: dict[str, float] = {}
        counts: dict[str, int] = {}
        for name, value in named(norms.names, norms.sums.tolist()).items():
            label = f"{layer_of(name)}/bias" if name.endswith("bias") else layer_of(name)
            sums[label] = sums.get(label, 0.0) + value
            counts[label] = counts.get(label, 0) + self._work.sizes[name]
        return {label: value / counts[label] for label, value in sums.items()}

    @staticmethod
    def _update_ratios(norms: GradientNorms, label: Callable[[str], str]) -> dict[str, float] | None:
        if norms.updates is None:
            return None
        updates = named(norms.names, norms.updates.update.tolist())
        weights = named(norms.names, norms.updates.weight.tolist())
        return divide(combine_norms(updates, label), combine_norms(weights, label))


def make_metrics(recipe: Recipe, plan: Plan, world: World, clock: Clock) -> StepMetrics:
    """For one attempt."""
    work = step_work(recipe, plan, world.describe()["device"])
    gpu = open_nvml(world.device)
    energy, machine = EnergyMeter(open_counters(world, gpu), world), MachineMeter(gpu, world)
    return StepMetrics(recipe.optim.lr, work, plan.parameters.groups, clock, energy, machine)


def validation_record(
    step: int, found: Evaluation, validation: Validation, seconds: float
) -> ValidationRecord:
    """The record of a validation after `step` steps."""
    return ValidationRecord(
        step=step,
        loss=found.loss,
        accuracy=found.accuracy,
        bits_per_byte=found.bits_per_byte,
        loss_by_part=found.loss_by_part,
        bits_per_byte_by_part=found.bits_per_byte_by_part,
        baselines=validation.baselines,
        sequences=validation.num_sequences,
        seconds=seconds,
    )


def layer_of(name: str) -> str:
    """Layer of a parameter: `layers.3` for `layers.3.s4d.ssm.C`, else the first part (`embedding`)."""
    parts = name.split(".")
    return ".".join(parts[:2]) if parts[0] == "layers" else parts[0]


def combine_norms(norms: Mapping[str, float], label: Callable[[str], str]) -> dict[str, float]:
    """L2 norm over all parameters with the same label, from the norm of each parameter."""
    # Norms 3 and 4 of two parameters of a layer make 5.
    squares: dict[str, float] = {}
    for name, norm in norms.items():
        squares[label(name)] = squares.get(label(name), 0.0) + norm * norm
    return {key: math.sqrt(square) for key, square in squares.items()}


def divide(upper: Mapping[str, float], lower: Mapping[str, float]) -> dict[str, float]:
    """Ratios by label, without those whose divisor is zero, such as a readout that starts at zero."""
    return {key: value / lower[key] for key, value in upper.items() if lower[key] > 0.0}


def named(names: Iterable[str], values: Iterable[float]) -> dict[str, float]:
    """Values by name; both are in the same order."""
    return dict(zip(names, values, strict=True))
