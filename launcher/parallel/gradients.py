"""Gradient norms and clipping that mean the same under every sharding. Nothing here waits for the device."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
import torch.distributed as dist


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateNorms:
    """L2 norms of each whole parameter before a step, and of what the step added to it."""

    weight: torch.Tensor
    update: torch.Tensor


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class GradientNorms:
    """Tensors on the device; reading one waits for it, so only log steps do."""

    names: tuple[str, ...]
    total: torch.Tensor
    """L2 norm over all parameters before clipping."""
    coefficient: torch.Tensor
    """What the gradients were multiplied by: min(1, limit / total)."""
    per_parameter: torch.Tensor
    """L2 norm of each whole parameter's gradient before clipping, in the order of `names`."""
    sums: torch.Tensor | None = None
    """Sum of |gradient| over each whole parameter before clipping; where the step was measured."""
    updates: UpdateNorms | None = None


@torch.no_grad()
def squared_norms(pieces: Sequence[torch.Tensor], group: dist.ProcessGroup | None) -> torch.Tensor:
    """Squared L2 norm of each whole parameter from this rank's piece of it (perhaps empty), in float64.

    One all-reduce over the group that holds one set of pieces between them; None where each rank has all.
    """
    # w (4) cut over two ranks, gradients [3 0] and [0 4]: squares 9 and 16, after the all-reduce 25 on both.
    # Of P parameters that is one message of P numbers; a rank without a piece of w brings an empty one, 0.
    # In float32 the square of a norm above 1.8e19 is infinite, and clipping by it would make a step of zeros.
    return _power_sums(pieces, group, 2)


def _power_sums(pieces: Sequence[torch.Tensor], group: dist.ProcessGroup | None, power: int) -> torch.Tensor:
    """Sum of |x|^power over each whole parameter."""
    sums = torch.stack(torch._foreach_norm(list(pieces), float(power), torch.float64)).pow_(power)
    if group is not None:
        dist.all_reduce(sums, group=group)
    return sums


@torch.no_grad()
def clip_gradients(
    names: tuple[str, ...],
    pieces: Sequence[torch.Tensor],
    limit: float | None,
    group: dist.ProcessGroup | None,
    *,
    measure: bool = False,
) -> GradientNorms:
    """Scale gradients, given in pieces as to squared_norms, by min(1, limit / norm) of the whole gradient.

    `measure` adds `sums`.
    """
    squares = squared_norms(pieces, group)
    sums = _power_sums(pieces, group, 1) if measure else None
    # Every rank has the same squares by now, so all find the same coefficient without another message; and it
    # stays on the device: float(total) here would make the host wait in every step.
    total = squares.sum().sqrt_()
    coefficient = torch.ones_like(total) if limit is None else limit / total.clamp(min=limit)
    if limit is not None:
        torch._foreach_mul_(list(pieces), coefficient.float())
    return GradientNorms(
        names=names, total=total, coefficient=coefficient, per_parameter=squares.sqrt_(), sums=sums
    )


@final
class UpdateMeasure:
    """Weights as they were before a step, to be compared with what they are after it."""

    @torch.no_grad()
    def __init__(self, pieces: Sequence[torch.Tensor], group: dist.ProcessGroup | None) -> None:
        self._pieces = list(pieces)
        self._group = group
        self._before = [piece.detach().clone() for piece in pieces]

    @torch.no_grad()
    def finish(self) -> UpdateNorms:
        """The norms, after the step; the copies are spent."""
        weight = squared_norms(self._before, self._group)
        torch._foreach_sub_(self._before, self._pieces)
        update = squared_norms(self._before, self._group)
        return UpdateNorms(weight=weight.sqrt_(), update=update.sqrt_())
