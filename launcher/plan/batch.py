"""The batch triangle: global batch = micro batch x accumulation x ranks. Torch-free."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchShape:
    """How one optimizer step's sequences are spread over ranks and forwards."""

    global_batch_size: int
    micro_batch_size: int
    """Sequences in each forward of each rank."""
    num_micro: int
    """Forwards per step and rank (gradient accumulation)."""
    world_size: int
    seq_len: int
    num_sequences: int
    """Sequences of seq_len positions in each sample: 2 in a pair, which counts as one above."""

    @property
    def tokens_per_step(self) -> int:
        """Positions per optimizer step, over all ranks and both sequences of a pair."""
        return self.global_batch_size * self.num_sequences * self.seq_len


def shape_batch(
    global_batch_size: int, most_per_forward: int, world_size: int, seq_len: int, num_sequences: int = 1
) -> BatchShape:
    """Spread a step's samples evenly, at most `most_per_forward` at once. ValueError if uneven."""
    per_rank, rest = divmod(global_batch_size, world_size)
    if rest or per_rank == 0:
        raise ValueError(f"global_batch_size {global_batch_size} is not a multiple of {world_size} ranks")
    micro = min(per_rank, most_per_forward)
    if per_rank % micro:
        raise ValueError(f"{per_rank} sequences per rank are not a multiple of micro_batch_size {micro}")
    return BatchShape(
        global_batch_size=global_batch_size,
        micro_batch_size=micro,
        num_micro=per_rank // micro,
        world_size=world_size,
        seq_len=seq_len,
        num_sequences=num_sequences,
    )
