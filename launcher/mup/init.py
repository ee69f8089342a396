"""Initial values: drawn by parameter name, so that they do not depend on sharding, order or world size."""

import hashlib
from collections.abc import Mapping

import torch
from torch.distributed.tensor import DTensor, distribute_tensor

from models.facts import ParamFacts


@torch.no_grad()
def init_parameters(
    model: torch.nn.Module, facts: Mapping[str, ParamFacts], scales: Mapping[str, float], seed: int
) -> None:
    """Fill every parameter of a (possibly sharded) model with its initial value times its muP factor.

    Each whole tensor is drawn on the CPU from a generator of its own and then cut, one parameter at a time.
    """
    for name, parameter in model.named_parameters():
        generator = torch.Generator().manual_seed(_seed_of(name, seed))
        whole = facts[name].init(parameter.shape, generator)
        if scales[name] != 1.0:  # at the base width the standard values stay bit for bit
            whole = whole * scales[name]
        if isinstance(parameter, DTensor):
            device = parameter.device_mesh.device_type
            whole = distribute_tensor(
                whole.to(device), parameter.device_mesh, parameter.placements, src_data_rank=None
            )
        parameter.copy_(whole)


def _seed_of(name: str, seed: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8]) >> 1
