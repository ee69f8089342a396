"""Statistics over all ranks' samples in a forward pass, with gradients for an average over ranks."""

from typing import Any, final

import torch
import torch.distributed as dist

from launcher.world import World
from models.auxiliary import ALONE, Across


@final
class AcrossRanks:
    """See models.auxiliary.Across. A collective in the forward, and one in the backward pass."""

    def __init__(self, count: int, rank: int) -> None:
        self.count, self._rank = count, rank

    def mean(self, x: torch.Tensor) -> torch.Tensor:
        """See Across."""
        found: torch.Tensor = _Mean.apply(x, self.count)
        return found

    def gather(self, x: torch.Tensor) -> torch.Tensor:
        """See Across."""
        found: torch.Tensor = _Gather.apply(x, self.count, self._rank)
        return found


def across_ranks(world: World) -> Across:
    """Of all ranks of a world."""
    return AcrossRanks(world.size, world.rank) if world.size > 1 else ALONE


# What is optimized is the mean over ranks q of their losses l_q, and gradients of weights are averaged over
# ranks after the backward pass. So a rank's x must get the sum over q of dl_q/dx: of a mean over R ranks that
# is the mean of what all ranks send back, of a gathered part the sum.


class _Mean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, count: int) -> torch.Tensor:
        ctx.count = count
        return _summed(x) / count

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return _summed(grads[0]) / ctx.count, None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, count: int, rank: int) -> torch.Tensor:
        ctx.rank, ctx.length = rank, len(x)
        parts = [torch.empty_like(x) for _ in range(count)]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        first = ctx.rank * ctx.length
        return _summed(grads[0])[first : first + ctx.length], None, None


def _summed(x: torch.Tensor) -> torch.Tensor:
    total = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total
