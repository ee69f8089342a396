"""The batch triangle: global batch = micro batch x accumulation x ranks. Torch-free."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchShape:
    """How the samples of one optimizer step are divided among ranks and forward passes."""

    global_batch_size: int
    micro_batch_size: int
    """Samples in each forward pass of each rank."""
    num_micro: int
    """Forward passes per step and rank (gradient accumulation)."""
    world_size: int
    seq_len: int
    num_sequences: int
    """Sequences of seq_len positions in each sample: 2 for pairs. A pair counts as one sample above."""

    @property
    def tokens_per_step(self) -> int:
        """Positions per optimizer step, over all ranks, and both sequences of a pair."""
        return self.global_batch_size * self.num_sequences * self.seq_len


class UnevenBatchError(ValueError):
    """A batch that cannot be divided evenly. `key` of the train section is wrong; each of `fits` works."""

    def __init__(
        self, key: Literal["global_batch_size", "micro_batch_size"], fits: list[int], message: str
    ) -> None:
        super().__init__(message)
        self.key = key
        self.fits = fits


def divides(global_batch_size: int, most_per_forward: int, world_size: int) -> bool:
    """Whether `shape_batch` can."""
    try:
        shape_batch(global_batch_size, most_per_forward, world_size, 1)
    except UnevenBatchError:
        return False
    return True


def shape_batch(
    global_batch_size: int, most_per_forward: int, world_size: int, seq_len: int, num_sequences: int = 1
) -> BatchShape:
    """Divide a step's samples evenly, at most `most_per_forward` at once. Raises UnevenBatchError."""
    # 48 samples over 3 ranks with at most 8 at once: 16 per rank, in 2 forward passes of 8. With at most 6,
    # the 16 would leave 4 over, and that is refused: all forward passes of a run have the same shape.
    per_rank, rest = divmod(global_batch_size, world_size)
    if rest or per_rank == 0:
        fits = [count * world_size for count in (per_rank, per_rank + 1) if count]
        message = f"global_batch_size {global_batch_size} is not a multiple of {world_size} ranks"
        raise UnevenBatchError("global_batch_size", fits, message)
    micro = min(per_rank, most_per_forward)
    if per_rank % micro:
        fits = [largest_divisor(per_rank, micro)]
        message = f"{per_rank} sequences per rank are not a multiple of micro_batch_size {micro}"
        raise UnevenBatchError("micro_batch_size", fits, message)
    return BatchShape(
        global_batch_size=global_batch_size,
        micro_batch_size=micro,
        num_micro=per_rank // micro,
        world_size=world_size,
        seq_len=seq_len,
        num_sequences=num_sequences,
    )


def largest_divisor(total: int, most: int) -> int:
    """The largest number up to `most` that divides `total`."""
    return max(size for size in range(1, min(most, total) + 1) if total % size == 0)
