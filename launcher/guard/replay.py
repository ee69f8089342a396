"""Which sample and which module were not finite: a step whose update was skipped, run again in pieces."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, final

import torch
from pydantic import TypeAdapter
from torch import nn

from launcher.data.batches import Batches
from launcher.data.dataset import Batch
from launcher.parallel.engine import Engine
from launcher.world import World
from models.loss import scores


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The first value that was not finite; `module` is None where the replay found none."""

    rank: int = 0
    sample: int | None = None
    """Its number in the training data."""
    module: str | None = None
    direction: str = "forward"

    def as_fields(self) -> dict[str, object]:
        """For a journal line."""
        if self.module is None:
            return {}
        return {"rank": self.rank, "sample": self.sample, "module": self.module, "direction": self.direction}

    @property
    def text(self) -> str:
        """For the console."""
        if self.module is None:
            return "its gradient is not finite or an outlier, and every sample alone is finite"
        where = f"{self.direction} pass of {self.module}"
        sample = "a batch" if self.sample is None else f"sample {self.sample}"
        return f"{sample} of rank {self.rank} is not finite in the {where}"


_FOUND = TypeAdapter[Found | None](Found | None)


@final
class Replay:
    """Runs a step's samples again, without dropout and without an update. All ranks together."""

    def __init__(self, engine: Engine, batches: Batches, world: World) -> None:
        self._engine = engine
        self._batches = batches
        self._world = world

    def run(self, data_step: int) -> Found:
        """The first sample, in the order of ranks, that is not finite with the weights as they are now."""
        # Micro batches first: of those that are finite on every rank, no sample is looked at. Sharded weights
        # are gathered by all ranks together, so all run the same pieces.
        found: list[Found] = []
        windows = self._batches.windows(data_step)
        for micro, batch in enumerate(self._batches.read(data_step)):
            whole = self._trace(batch, micro, slice(None))
            if not any(self._world.gather(whole is not None, TypeAdapter(bool))):
                continue
            rows = [self._trace(batch, micro, slice(row, row + 1)) for row in range(len(batch.y))]
            samples = [
                replace(trace, sample=int(windows[micro][row]))
                for row, trace in enumerate(rows)
                if trace is not None
            ]
            found += samples or ([whole] if whole is not None else [])
            break
        first = self._world.gather(found[0] if found else None, _FOUND)
        return next((trace for trace in first if trace is not None), Found())

    def _trace(self, batch: Batch, micro: int, rows: slice) -> Found | None:
        """The first module, forward then backward, whose output is not finite; None if all are."""
        engine, outputs = self._engine, list[tuple[str, torch.Tensor]]()
        handles = [
            module.register_forward_hook(partial(_note, outputs, name or "model"))
            for name, module in engine.model.named_modules()
        ]
        engine.model.eval()
        try:
            with engine.precision(), torch.enable_grad():
                loss = _loss(engine, batch, micro, rows, self._world.device)
            if (bad := _first_bad(outputs)) is not None:
                return Found(rank=self._world.rank, module=bad)
            if not bool(loss.isfinite()):
                return Found(rank=self._world.rank, module="loss")
            backward = _gradients(loss, outputs) if engine.whole_weights else []
        finally:
            for handle in handles:
                handle.remove()
        bad = _first_bad(backward)
        return None if bad is None else Found(rank=self._world.rank, module=bad, direction="backward")


def _note(
    outputs: list[tuple[str, torch.Tensor]], name: str, _module: nn.Module, _inputs: Any, output: Any
) -> None:
    first = output[0] if isinstance(output, tuple) else output
    if isinstance(first, torch.Tensor) and first.is_floating_point():
        outputs.append((name, first))


def _loss(engine: Engine, batch: Batch, micro: int, rows: slice, device: torch.device) -> torch.Tensor:
    x, y = batch.x[rows].to(device), batch.y[rows].to(device)
    carried = engine.recurrent_state
    states = carried.before(batch, micro) if carried is not None else None
    if states is not None:
        logits, _ = engine.model(x, [tuple(part[rows] for part in state) for state in states])
    else:
        logits = engine.model(x, *(() if batch.lengths is None else (batch.lengths[rows].to(device),)))
    return scores(logits.float().flatten(0, -2), y.flatten())[0]


def _gradients(
    loss: torch.Tensor, outputs: Sequence[tuple[str, torch.Tensor]]
) -> list[tuple[str, torch.Tensor]]:
    """Gradients of module outputs in the order of the backward pass."""
    # Of outputs, not of parameters: no hook of DDP or ZeRO runs, and nothing is accumulated.
    kept = [(name, output) for name, output in outputs if output.requires_grad]
    found = torch.autograd.grad(loss, [output for _, output in kept], allow_unused=True)
    pairs = [(name, grad) for (name, _), grad in zip(kept, found, strict=True) if grad is not None]
    return pairs[::-1]


def _first_bad(values: Sequence[tuple[str, torch.Tensor]]) -> str | None:
    return next((name for name, value in values if not bool(value.isfinite().all())), None)
