"""What a checkpoint must be: finite, and the same on all ranks that hold the same. All ranks together."""

import collections
import hashlib
import socket
from collections.abc import Mapping, Sequence

import torch
from pydantic import TypeAdapter

from launcher.ending import NonFiniteError, ReplicasDifferError
from launcher.parallel.engine import Engine, EngineState
from launcher.parallel.mesh import local_shard
from launcher.world import World


def check_finite(state: EngineState, world: World) -> None:
    """Raise NonFiniteError where a tensor of a state is not finite on any rank."""
    # A window of norms is filled with what passed, and a carried state with what was finite.
    tensors = {name: local_shard(value) for name, value in state.items() if value.is_floating_point()}
    finite = torch.stack([value.isfinite().all().to(world.device) for value in tensors.values()]).tolist()
    bad = [name for name, good in zip(tensors, finite, strict=True) if not good]
    found = next((names for names in world.gather(bad[:3], TypeAdapter(list[str])) if names), None)
    if found is not None:
        raise NonFiniteError(
            f"{', '.join(found)} would be saved with values that are not finite; older checkpoints are kept"
        )


def check_replicas(engine: Engine, world: World) -> None:
    """Raise ReplicasDifferError where ranks that hold the same tensors hold different ones; names who."""
    pieces = engine.replicas()
    if not pieces:
        return
    sums = torch.stack([bit_sum(value) for value in pieces.values()]).tolist()
    digest = hashlib.sha256(repr(sums).encode()).hexdigest()
    told = world.gather((engine.shard_index, digest), TypeAdapter(tuple[int, str]))
    if len(set(told)) == len({shard for shard, _ in told}):
        return
    everyone = world.gather((socket.gethostname(), sums), TypeAdapter(tuple[str, list[int]]))
    odd = find_odd(told)
    rank = odd[0]
    same = [other for other, (shard, _) in enumerate(told) if shard == told[rank][0] and other not in odd]
    model = everyone[same[0] if same else next(r for r in odd if told[r] != told[rank])][1]
    names = [n for n, ours, theirs in zip(pieces, everyone[rank][1], model, strict=True) if ours != theirs]
    who = " and ".join(f"rank {other} on {everyone[other][0]}" for other in odd[:4])
    raise ReplicasDifferError(f"{who} differ in {len(names)} tensors, such as {names[0]}; nothing is saved")


def find_odd(told: Sequence[tuple[int, str]]) -> list[int]:
    """Ranks whose digest is not that of most ranks with their shard; of two that differ, both."""
    # Three replicas a, a, b: rank 2. Two replicas a, b: nobody knows which one is right.
    by_shard: Mapping[int, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for shard, digest in told:
        by_shard[shard][digest] += 1
    odd = []
    for rank, (shard, digest) in enumerate(told):
        counts = by_shard[shard]
        if len(counts) > 1 and 2 * counts[digest] <= sum(counts.values()):
            odd.append(rank)
    return odd


def bit_sum(tensor: torch.Tensor) -> torch.Tensor:
    """Sum of a tensor's bit patterns as integers: one flipped bit anywhere changes it."""
    kinds = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    flat = tensor.detach().contiguous().view(-1)
    return flat.view(kinds[tensor.element_size()]).sum(dtype=torch.int64).cpu()
