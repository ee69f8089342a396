"""The state of a ZeRO engine in the form common to all engines: by name, whole shapes, cut over all ranks.

One parameter at a time is gathered, so that neither saving nor loading ever needs a whole model in memory.
"""

from collections.abc import Mapping
from typing import final

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Shard
from torch.nn import Parameter

from launcher.parallel.deepspeed.zero_layout import Fragment, Layout
from launcher.parallel.engine import EngineState, make_moments
from launcher.world import World


@final
class ZeroState:
    """Reads and writes the weights and moments of one engine. All methods are collective."""

    def __init__(
        self,
        layout: Layout,
        parameters: Mapping[str, Parameter],
        shapes: Mapping[str, torch.Size],
        world: World,
    ) -> None:
        self._layout = layout
        self._parameters = parameters
        self._shapes = shapes
        self._world = world
        # Copies live in host memory: the device has no room to spare.
        self._mesh: DeviceMesh | None = init_device_mesh("cpu", (world.size,)) if world.size > 1 else None

    def read(self) -> dict[str, torch.Tensor]:
        """Copies, keyed as Engine.state says."""
        self.make_moments()
        fragments = self._layout.fragments()
        entries: dict[str, torch.Tensor] = {}
        for name in self._parameters:
            fragment = fragments.get(name)
            entries[f"model/{name}"] = self._gather(name, fragment, fragment and fragment.weight)
            for key, value in self._moments(fragment).items():
                if _is_counter(value):
                    entries[f"optim/{name}/{key}"] = value.cpu().clone()
                else:
                    piece = fragment and fragment.moment(value)
                    entries[f"optim/{name}/{key}"] = self._gather(name, fragment, piece)
        return entries

    @torch.no_grad()
    def write(self, state: EngineState) -> None:
        """Take over weights, moments and counters. Rates and decay come from the recipe, not from here."""
        self.make_moments()
        fragments = self._layout.fragments()
        for name, parameter in self._parameters.items():
            fragment = fragments.get(name)
            whole = _whole(state[f"model/{name}"]).to(self._world.device)
            # Two copies of each weight: what the forward pass reads, and the float32 values that are stepped.
            self._layout.set_computed(parameter, fragment, whole)
            if fragment is not None:
                fragment.weight.copy_(_cut(whole, fragment))
            for key, value in self._moments(fragment).items():
                whole = _whole(state[f"optim/{name}/{key}"])
                if _is_counter(value):
                    value.copy_(whole)
                elif fragment is not None:
                    fragment.moment(value).copy_(_cut(whole, fragment))

    def make_moments(self) -> None:
        """DeepSpeed and torch make them in the first step; a checkpoint may come before it."""
        optimizer = self._layout.optimizer
        if optimizer.state:
            return
        # At stage 3 the groups are empty between steps, and a step over nothing would make no state.
        before = [group["params"] for group in optimizer.param_groups]
        for group, tensors in zip(optimizer.param_groups, self._layout.stepped(), strict=True):
            group["params"] = tensors
        make_moments(optimizer)
        for group, tensors in zip(optimizer.param_groups, before, strict=True):
            group["params"] = tensors

    def _moments(self, fragment: Fragment | None) -> Mapping[str, torch.Tensor]:
        """State of the buffer that holds a fragment; without one, of any: keys and counters are the same."""
        states = self._layout.optimizer.state
        return states[fragment.flat] if fragment is not None else next(iter(states.values()))

    def _gather(self, name: str, fragment: Fragment | None, piece: torch.Tensor | None) -> torch.Tensor:
        shape = self._shapes[name]
        if self._mesh is None:
            assert piece is not None, "one rank alone has a fragment of everything"
            return piece.detach().cpu().clone().view(shape)
        # Pieces have any size, on some ranks none: a sum of them in a field of zeros, which is exact, asks
        # for no sizes to be exchanged. w (5, 2) on two ranks that hold its first 7 and last 3 numbers: each
        # fills its part of 10 zeros; after the sum rank 0 keeps rows 0 to 2 and rank 1 rows 3 and 4.
        whole = torch.zeros(shape.numel(), device=self._world.device)
        if fragment is not None and piece is not None:
            whole.narrow(0, fragment.start, piece.numel()).copy_(piece)
        if self._layout.fragmented:
            dist.all_reduce(whole)
        own = _chunk(whole.view(shape), self._world).cpu().clone()
        return DTensor.from_local(
            own, self._mesh, [Shard(0)], run_check=False, shape=shape, stride=whole.view(shape).stride()
        )


def _chunk(whole: torch.Tensor, world: World) -> torch.Tensor:
    """This rank's rows, cut as DTensor cuts."""
    # 5 rows for 4 ranks are chunks of 2, 2 and 1: the last rank has none, for which DTensor wants (0, ...)
    if whole.dim() == 0:
        raise ValueError("a parameter without dimensions cannot be sharded; give it one")
    chunks = whole.chunk(world.size, dim=0)
    return chunks[world.rank] if world.rank < len(chunks) else whole[:0]


def _cut(whole: torch.Tensor, fragment: Fragment) -> torch.Tensor:
    return whole.view(-1).narrow(0, fragment.start, fragment.weight.numel())


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).contiguous()


def _is_counter(value: torch.Tensor) -> bool:
    return value.dim() == 0
