"""Several documents in one row, kept apart: what a layer computes of one must not depend on the others.

Letters: B rows, L positions of a row, D documents, T their longest, H channels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self, final

import torch

_SHORTEST = 64
"""Documents up to this long are padded to it."""


@final
@dataclass(frozen=True, slots=True)
class Documents:
    """Which positions of a batch belong together."""

    numbers: torch.Tensor
    """Of the document in its row, (B, L) int64."""
    groups: tuple[torch.Tensor, ...]
    """Documents of about one length, (D, T) int64: their positions in the batch laid out as (B L); B L itself
    stands for none. There are as many groups on every rank and at every step, so that all ranks call the
    parts of a layer equally often."""
    back: torch.Tensor
    """The place of each position in the groups laid out one after the other, (B, L) int64."""

    def to(self, device: torch.device) -> Self:
        """The same there."""
        there = [part.to(device, non_blocking=True) for part in (self.numbers, self.back)]
        groups = tuple(group.to(device, non_blocking=True) for group in self.groups)
        return type(self)(there[0], groups, there[1])

    def visible(self) -> torch.Tensor:
        """True (B, L, L) where a position may see another: of its document, and not later."""
        same_BLL = self.numbers[:, :, None] == self.numbers[:, None, :]
        return same_BLL.tril()

    def apart(self, mix: Callable[[torch.Tensor], torch.Tensor], x_BLH: torch.Tensor) -> torch.Tensor:
        """A causal function of sequences, (D, T, H) -> (D, T, X), of each document by itself."""
        # Documents of about one length share a call: padded to less than twice their length, they cost less
        # than twice as much, and what is padded comes last, where no earlier position sees it.
        flat = torch.cat((x_BLH.flatten(0, 1), x_BLH.new_zeros(1, x_BLH.shape[2])))
        mixed = torch.cat([mix(flat[group_DT]).flatten(0, 1) for group_DT in self.groups])
        return mixed[self.back]


def lay_out(lengths: Sequence[Sequence[int]]) -> Documents:
    """Of the lengths of the documents of each row, which add up to L."""
    length = sum(lengths[0])
    sizes = [length]
    while sizes[-1] > _SHORTEST:
        sizes.append(-(-sizes[-1] // 2))
    none = len(lengths) * length
    groups: list[list[torch.Tensor]] = [[] for _ in sizes]
    number_BL = torch.empty(len(lengths), length, dtype=torch.int64)
    for row, of_row in enumerate(lengths):
        at = 0
        for number, count in enumerate(of_row):
            number_BL[row, at : at + count] = number
            # The shortest of the sizes that holds it.
            group = max(place for place, size in enumerate(sizes) if size >= count)
            positions = torch.full((sizes[group],), none, dtype=torch.int64)
            positions[:count] = torch.arange(row * length + at, row * length + at + count)
            groups[group].append(positions)
            at += count
        if at != length:
            raise ValueError(f"row {row} has {at} positions, and the first {length}")
    stacked = tuple(
        torch.stack(group or [torch.full((size,), none, dtype=torch.int64)])
        for group, size in zip(groups, sizes, strict=True)
    )
    flat = torch.cat([group.flatten() for group in stacked])
    back = torch.empty(none + 1, dtype=torch.int64)
    back[flat] = torch.arange(len(flat))
    return Documents(number_BL, stacked, back[:-1].unflatten(0, (len(lengths), length)))


def lengths_of(documents: Documents) -> list[list[int]]:
    """What `lay_out` was given."""
    return [torch.bincount(row).tolist() for row in documents.numbers]


def join_rows(parts: Sequence[Documents], order: torch.Tensor) -> Documents:
    """The rows of all parts, in another order."""
    lengths = [of_row for part in parts for of_row in lengths_of(part)]
    return lay_out([lengths[row] for row in order.tolist()])
