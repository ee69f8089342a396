"""Gradient norms and clipping that mean the same under every sharding."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch.nn import Parameter

from launcher.parallel.mesh import local_shard


@dataclass(frozen=True, slots=True)
class GradientNorms:
    """Tensors on the device; reading one waits for it, so only log steps do."""

    total: torch.Tensor
    """L2 norm over all parameters before clipping."""
    coefficient: torch.Tensor
    """What the gradients were multiplied by: min(1, limit / total)."""
    per_parameter: torch.Tensor
    """L2 norm of each parameter's gradient before clipping, in the order given."""


@torch.no_grad()
def clip_gradients(
    parameters: Sequence[Parameter], limit: float | None, shard_group: dist.ProcessGroup | None
) -> GradientNorms:
    """Scale all gradients by min(1, limit / norm) of the whole, unsharded gradient, without a host sync.

    Squares are summed per parameter in float32 and added up over the shard group in one all-reduce;
    ranks outside it hold the same shards already.
    """
    gradients = [local_shard(p.grad) for p in parameters if p.grad is not None]
    if len(gradients) != len(parameters):
        missing = sum(p.grad is None for p in parameters)
        raise ValueError(f"{missing} of {len(parameters)} parameters got no gradient; every parameter must be used")
    squares = torch.stack(torch._foreach_norm(gradients, 2.0, torch.float32)).square_()
    if shard_group is not None:
        dist.all_reduce(squares, group=shard_group)
    total = squares.sum().sqrt_()
    coefficient = torch.ones_like(total) if limit is None else limit / total.clamp(min=limit)
    if limit is not None:
        torch._foreach_mul_(gradients, coefficient)
    return GradientNorms(total=total, coefficient=coefficient, per_parameter=squares.sqrt_())
