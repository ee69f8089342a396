"""Updates that are not applied, for optimizers that torch does not have."""

import contextlib
from collections.abc import Iterator, Sequence

import torch


@contextlib.contextmanager
def unless_skipped(found_inf: torch.Tensor | None, tensors: Sequence[torch.Tensor]) -> Iterator[None]:
    """Undo what the block does to tensors in place where `found_inf` is 1; without one, nothing is undone."""
    # Decided on the device. Not by a factor of zero: a gradient that is not finite times zero is NaN, and a
    # gradient of zero still decays moments.
    if found_inf is None:
        yield
        return
    before = [tensor.clone() for tensor in tensors]
    yield
    skipped = found_inf > 0
    for tensor, old in zip(tensors, before, strict=True):
        torch.where(skipped, old, tensor, out=tensor)
