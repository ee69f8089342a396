"""Kernels of a step: of all layers of a kind at once, shared by its micro batches and by recomputations.

A kernel depends on parameters alone. It is made without a graph from copies of them; micro batches leave its
gradient on it, and in the backward pass of the last one it is made a second time, a block of layers after the
other, to carry the sum into the parameters. So a step makes each kernel twice, and keeps none of what lies
between parameters and kernel. Small models with one micro batch make it once, with its graph.

Letters: H channels of a layer, C kernels per channel, L taps, K channels of all layers of a kind.
"""

import abc
from collections.abc import Sequence
from typing import Any, final

import torch
from torch import nn

from models import cache_blocks
from models.precision import no_autocast

_BLOCK_CHANNELS = 40 << 10
"""Channels whose kernels are made together on an accelerator: more would keep too much in between."""
_KEPT_CHANNELS = 1 << 12
"""Of so few, one micro batch keeps what is in between: of S4 with 64 states and 2,048 taps, 0.3 MB each."""


class KernelSource(nn.Module, abc.ABC):
    """Abstract: a layer's parameters of kernels, with channels, or copies for them, along dimension 0."""

    d_model: int
    """H."""
    shapes: tuple[torch.Size, ...]
    """Of the parameters as they were built: what shards them may hide that."""

    @abc.abstractmethod
    def kernels(self, values: Sequence[torch.Tensor], length: int) -> torch.Tensor:
        """(C, K, L) of the parameters in their order; of several layers where they are stacked."""

    def copy_flat(self) -> torch.Tensor:
        """A copy of all parameters, one after the other, which lasts when what shards them has freed them."""
        return torch.cat([parameter.flatten() for parameter in self.parameters()])


@final
class StepKernels:
    """The kernels that one step's micro batches share. In the last one gradients reach the parameters."""

    def __init__(self) -> None:
        self.last = True
        self._made: dict[type[KernelSource], torch.Tensor] = {}

    def of(self, sources: Sequence[KernelSource], length: int) -> list[torch.Tensor]:
        """(C, H, L or more) of each of these sources, which are all of their kind."""
        k_CKL = self._all_of(sources, length)
        return list(k_CKL.split(k_CKL.shape[1] // len(sources), dim=1))

    def _all_of(self, sources: Sequence[KernelSource], length: int) -> torch.Tensor:
        kind, learns = type(sources[0]), torch.is_grad_enabled() and self.last
        made = self._made.get(kind)
        if learns and made is None and keeps_graph(len(sources), sources[0].d_model, 1):
            return _generate(sources[0], _values(sources), length)
        with torch.set_grad_enabled(learns):
            flats = _values(sources) if made is None or learns or made.shape[-1] < length else []
        if made is None or made.shape[-1] < length:
            before, wants = made, torch.is_grad_enabled()
            with torch.no_grad():
                made = _generate(sources[0], flats, length).requires_grad_(wants)
            if before is not None and before.grad is not None:
                made.grad = torch.nn.functional.pad(before.grad, (0, length - before.shape[-1]))
            self._made[kind] = made
        if not learns:
            return made
        carried: torch.Tensor = _Carry.apply(made.detach(), made.grad, sources[0], *flats)
        return carried


def keeps_graph(num_layers: int, d_model: int, num_micro: int) -> bool:
    """Whether the kernels of a kind are made once, and all that lies between is kept, as it is not much."""
    return num_micro == 1 and num_layers * d_model <= _KEPT_CHANNELS


def _values(sources: Sequence[KernelSource]) -> list[torch.Tensor]:
    """Flat copies of the parameters of each."""
    # called as modules: what shards parameters gathers them around a call, and frees them after it
    return [source() for source in sources]


@final
class _Carry(torch.autograd.Function):
    """The kernels of before, with the way back to the parameters. Differentiable again."""

    @staticmethod
    def forward(
        ctx: Any,
        k_CKL: torch.Tensor,
        earlier_CKL: torch.Tensor | None,
        source: KernelSource,
        *flats: torch.Tensor,
    ) -> torch.Tensor:
        ctx.source, ctx.earlier = source, earlier_CKL
        ctx.save_for_backward(*flats)
        return k_CKL.view_as(k_CKL)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        flats = ctx.saved_tensors
        grad_CKL = grads[0] if ctx.earlier is None else grads[0] + ctx.earlier
        again = torch.is_grad_enabled()  # a second derivative is wanted
        H, found = grad_CKL.shape[1] // len(flats), list[torch.Tensor]()
        with torch.enable_grad():
            for part in _blocks(len(flats), H, grad_CKL.device):
                block = flats[part] if again else [flat.detach().requires_grad_() for flat in flats[part]]
                k_CKL = _generate(ctx.source, block, grad_CKL.shape[-1])
                grad = grad_CKL[:, part.start * H : part.stop * H]
                found += torch.autograd.grad(k_CKL, block, grad, create_graph=again)
        return None, None, None, *found


def _generate(source: KernelSource, flats: Sequence[torch.Tensor], length: int) -> torch.Tensor:
    """The kernels of these layers side by side, (C, K, L)."""
    sizes = [shape.numel() for shape in source.shapes]
    with no_autocast(flats[0]):
        made = []
        for part in _blocks(len(flats), source.d_model, flats[0].device):
            # of 3 layers with P (8, 1, 4, 2) a slice (3, 64) becomes (24, 1, 4, 2)
            columns = torch.stack(list(flats[part])).split(sizes, dim=1)
            pairs = zip(columns, source.shapes, strict=True)
            stacked = [column.unflatten(1, shape).flatten(0, 1) for column, shape in pairs]
            made.append(source.kernels(stacked, length))
    return made[0] if len(made) == 1 else torch.cat(made, dim=1)


def layers_of_block(d_model: int) -> int:
    """Layers whose kernels an accelerator makes together."""
    return max(1, _BLOCK_CHANNELS // d_model)


def _blocks(num_layers: int, H: int, device: torch.device) -> list[slice]:
    # a CPU makes one layer's at a time, which is enough for all its cores
    step = 1 if cache_blocks.takes_blocks(device) else layers_of_block(H)
    return [slice(start, min(start + step, num_layers)) for start in range(0, num_layers, step)]
