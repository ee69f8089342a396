"""Measurements on request: size and batch entropy of each layer's output, and sharpness."""

import math
import re
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, final

import torch
import torch.distributed as dist
from torch import nn

from launcher.data.dataset import Batch
from launcher.parallel.engine import Engine
from launcher.parallel.mesh import plain_name
from launcher.track.config import DiagnosisConfig
from launcher.track.tracker import Tracker
from launcher.world import World

Fields = dict[str, object]


@final
class Diagnosis:
    """What a recipe asks for, over the batch of the step just taken, into the journal. All ranks together."""

    def __init__(
        self, config: DiagnosisConfig | None, engine: Engine, tracker: Tracker, world: World
    ) -> None:
        self._config = config
        self._engine = engine
        self._tracker = tracker
        self._world = world

    def run(self, step: int, micro_batches: Sequence[Batch]) -> None:
        """Nothing, if nothing is asked for."""
        if self._config is None:
            return
        begun = time.perf_counter()
        fields: Fields = {"step": step}
        if self._config.layers:
            fields |= self._layers(micro_batches[:1])
        if self._config.sharpness:
            fields["sharpness"] = self._engine.sharpness(micro_batches)
            self._tracker.say(f"step {step}: sharpness is {fields['sharpness']:.3f} of the edge of stability")
        self._tracker.event("diagnosis", fields | {"seconds": time.perf_counter() - begun})

    def _layers(self, micro_batches: Sequence[Batch]) -> Fields:
        found: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        hooks = [
            module.register_forward_hook(partial(self._note, found, name))
            for name, module in _layers_of(self._engine.model).items()
        ]
        try:
            self._engine.evaluate(micro_batches, by_modules=True)
        finally:
            for hook in hooks:
                hook.remove()
        names = list(found)
        values = torch.stack([torch.stack(found[name]) for name in names]).tolist() if names else []
        entropy = {name: value[1] for name, value in zip(names, values, strict=True)}
        known = {name: value for name, value in entropy.items() if not math.isnan(value)}
        rms = {name: value[0] for name, value in zip(names, values, strict=True)}
        return {"activation_rms": rms} | ({"batch_entropy": known} if known else {})

    def _note(
        self,
        found: dict[str, tuple[torch.Tensor, torch.Tensor]],
        name: str,
        _module: nn.Module,
        _given: tuple[Any, ...],
        output: Any,
    ) -> None:
        tensor = output[0] if isinstance(output, tuple) else output
        found[name] = measure_output(tensor.detach().float(), self._world)


def _layers_of(model: nn.Module) -> Mapping[str, nn.Module]:
    """Each `layers.N`, by its name without those of wrappers."""
    modules = {plain_name(name): module for name, module in model.named_modules()}
    return {name: module for name, module in modules.items() if re.fullmatch(r"layers\.\d+", name)}


def measure_output(output: torch.Tensor, world: World) -> tuple[torch.Tensor, torch.Tensor]:
    """(RMS, batch entropy) of a layer's output (B, ...), B samples on each rank, over those of all ranks.

    Batch entropy, as in its authors' code: mean over units k of ln(pi e sigma_k^2 + 1) / 2,
    sigma_k over samples, unbiased. NaN of a single sample.
    """
    values = output.flatten(1)  # (B, units)
    count = len(values) * world.size
    mean, squares = values.sum(0) / count, values.square().mean()
    if world.size > 1:
        dist.all_reduce(mean)
        dist.all_reduce(squares)
    # Of deviations, not of squares: those cancel where the mean is large.
    variance = (values - mean).square().sum(0)
    if world.size > 1:
        dist.all_reduce(variance)
    variance /= max(count - 1, 1)
    entropy = (math.pi * math.e * variance).log1p().mean() / 2
    rms = (squares / world.size).sqrt()
    return rms, entropy if count > 1 else torch.full_like(rms, math.nan)
