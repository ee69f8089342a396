"""Measurements on request: size, entropy and neighbourhoods of each layer's output, and sharpness."""

import math
import re
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, final

import torch
from torch import nn

from launcher.data.dataset import Batch
from launcher.parallel.across import across_ranks
from launcher.parallel.engine import Engine
from launcher.parallel.mesh import plain_name
from launcher.track.config import DiagnosisConfig
from launcher.track.tracker import Tracker
from launcher.world import World
from models.auxiliary import Across, batch_entropy, soft_neighbours

Fields = dict[str, object]
Measures = dict[str, torch.Tensor]


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
            fields |= self._layers(micro_batches[0])
        if self._config.sharpness:
            fields["sharpness"] = self._engine.sharpness(micro_batches)
            self._tracker.say(f"step {step}: sharpness is {fields['sharpness']:.3f} of the edge of stability")
        self._tracker.event("diagnosis", fields | {"seconds": time.perf_counter() - begun})

    def _layers(self, batch: Batch) -> Fields:
        found: dict[str, Measures] = {}
        layers = _layers_of(self._engine.model)
        hooks = [
            module.register_forward_hook(partial(self._note, found, batch, name))
            for name, module in layers.items()
        ]
        try:
            self._engine.evaluate([batch], by_modules=True)
        finally:
            for hook in hooks:
                hook.remove()
        if not found:
            return {}
        values = torch.stack([torch.stack(list(measures.values())) for measures in found.values()]).tolist()
        kinds = list(next(iter(found.values())))
        tables = {
            kind: dict(zip(found, column, strict=True)) for kind, *column in zip(kinds, *values, strict=True)
        }
        known = {
            kind: {name: value for name, value in table.items() if not math.isnan(value)}
            for kind, table in tables.items()
        }
        return {kind: table for kind, table in known.items() if table}

    def _note(
        self,
        found: dict[str, Measures],
        batch: Batch,
        name: str,
        _module: nn.Module,
        _given: tuple[Any, ...],
        output: Any,
    ) -> None:
        tensor = output[0] if isinstance(output, tuple) else output
        found[name] = measure_output(tensor.detach().float(), batch, across_ranks(self._world))


def _layers_of(model: nn.Module) -> Mapping[str, nn.Module]:
    """Each `layers.N`, by its name without those of wrappers."""
    modules = {plain_name(name): module for name, module in model.named_modules()}
    return {name: module for name, module in modules.items() if re.fullmatch(r"layers\.\d+", name)}


def measure_output(output: torch.Tensor, batch: Batch, across: Across) -> Measures:
    """Of a layer's output (B, ...), B samples on each rank, over those of all ranks.

    RMS; batch entropy; and for labelled samples the soft nearest neighbour loss of their means over valid
    positions, at the temperature that is the mean distance of two: 0 where classes are far apart.
    """
    measures = {
        "activation_rms": across.mean(output.square().mean()).sqrt(),
        "batch_entropy": batch_entropy(output, across),
    }
    if batch.y.ndim == 1 and len(output) == len(batch.y):  # pairs are two sequences to the layers
        valid_BL = torch.ones(output.shape[:2], device=output.device)
        if batch.lengths is not None:
            positions_L = torch.arange(output.shape[1], device=output.device)
            valid_BL = (positions_L < batch.lengths.to(output.device)[:, None]).float()
        own_BH = (output * valid_BL[..., None]).sum(1) / valid_BL.sum(1, keepdim=True)
        x_BH, y_B = across.gather(own_BH), across.gather(batch.y.to(output.device))
        mean_distance = 2 * x_BH.var(0).mean()  # of two different samples, over all pairs
        measures["soft_neighbours"] = soft_neighbours(x_BH, y_B, 1 / mean_distance)
    return measures
