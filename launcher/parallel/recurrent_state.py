"""Truncated backpropagation through time: states that sequences carry from one step to the next.

Gradients end where a window begins (Williams and Peng 1990): a state is a plain value by then.
"""

from collections.abc import Mapping
from copy import copy
from typing import final

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard

from launcher.data.dataset import Batch
from launcher.parallel.mesh import local_shard
from launcher.plan.batch import BatchShape
from launcher.world import World
from models.lm import LM
from models.mixer import State
from models.residual import residuals


@final
class RecurrentState:
    """The state of every layer at the end of each of this rank's streams, by micro batch."""

    def __init__(self, model: LM, batch: BatchShape, world: World) -> None:
        # States are made without parameters, so that it does not matter how those will be sharded.
        self._first = model.initial_states(batch.micro_batch_size, world.device)
        self._micros = [self._first] * batch.num_micro
        self._before = list(self._micros)
        self._layers = [f"layers.{i}.{layer.kind}" for i, layer in enumerate(residuals(model.layers))]
        self._mesh = init_device_mesh(world.device.type, (world.size,)) if world.size > 1 else None

    def fresh(self) -> "RecurrentState":
        """One of the same shape that has seen nothing; this one stays as it is."""
        other = copy(self)
        other._micros = [self._first] * len(self._micros)
        return other

    def before(self, batch: Batch, micro: int) -> list[State] | None:
        """The states from which a micro batch continues; None where windows do not follow one another.

        `micro` may count through several steps.
        """
        if batch.begins is None:
            return None
        # modulo: training counts from 0 in each step, validation through all its windows
        return self._first if batch.begins else self._micros[micro % len(self._micros)]

    def keep(self, states: list[State], micro: int) -> None:
        """Remember the states after a micro batch."""
        # copies: a part may be the end of a layer's whole activation, which would stay in memory
        kept = [tuple(part.detach().clone() for part in state) for state in states]
        self._micros[micro % len(self._micros)] = kept

    def settle(self, skip: torch.Tensor) -> None:
        """After a step: where `skip` is 1, the states are again those before it, which were finite."""
        self._micros = [
            [
                tuple(torch.where(skip > 0, old, new) for old, new in zip(*parts, strict=True))
                for parts in zip(before, after, strict=True)
            ]
            for before, after in zip(self._before, self._micros, strict=True)
        ]
        self._before = list(self._micros)

    def read(self) -> dict[str, torch.Tensor]:
        """Copies for a checkpoint, a row for each sequence of the global batch, cut over the ranks: so they
        fit any world size and micro batch. Keyed `carry/LAYER/PART`."""
        # 8 sequences a step on 2 ranks with micro batches of 2: each rank has 2 states (2, H, N) of a layer,
        # which are 4 rows here and 8 in the file. On 4 ranks each reads 2 of them, one micro batch.
        return {
            f"carry/{name}/{part}": self._whole(torch.cat(micros))
            for name, layer in zip(self._layers, zip(*self._micros, strict=True), strict=True)
            for part, micros in enumerate(zip(*layer, strict=True))
        }

    def write(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take over what `read` gave, once a checkpoint has filled it."""
        layers = []
        for name, first in zip(self._layers, self._first, strict=True):
            parts = [local_shard(state[f"carry/{name}/{part}"]) for part in range(len(first))]
            micros = [part.chunk(len(self._micros)) for part in parts]
            layers.append([tuple(part[micro] for part in micros) for micro in range(len(self._micros))])
        self._micros = [list(states) for states in zip(*layers, strict=True)]
        self._before = list(self._micros)

    def _whole(self, rows: torch.Tensor) -> torch.Tensor:
        if self._mesh is None:
            return rows
        return DTensor.from_local(rows, self._mesh, [Shard(0)], run_check=False)
