"""The device mesh and how a model is cut over it."""

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from launcher.parallel.config import ParallelConfig
from launcher.world import World

SHARD_AXIS, REPLICATE_AXIS = "shard", "replicate"


def build_mesh(config: ParallelConfig, world: World, shard_size: int) -> DeviceMesh | None:
    """One axis over which parameters are sharded, for hsdp a second over which they are replicated."""
    if world.size == 1:
        return None  # one rank holds everything: nothing to shard, and no process group to do it in
    match config.strategy:
        case "single" | "ddp":
            return None
        case "fsdp2":
            return init_device_mesh(world.device.type, (world.size,), mesh_dim_names=(SHARD_AXIS,))
        case "hsdp":
            return init_device_mesh(
                world.device.type,
                (world.size // shard_size, shard_size),
                mesh_dim_names=(REPLICATE_AXIS, SHARD_AXIS),
            )


def shard_model(model: nn.Module, mesh: DeviceMesh | None) -> nn.Module:
    """Shard every residual layer as one unit, then what is left (embedding, last norm, readout) as the root."""
    if mesh is None:
        return model
    for layer in model.get_submodule("layers").children():
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def replicate_model(model: nn.Module, config: ParallelConfig, world: World) -> nn.Module:
    """Wrap an initialised model for gradient averaging where the strategy replicates it; else return it."""
    if config.strategy != "ddp" or world.size == 1:
        return model
    devices = [world.device] if world.device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True)


def plain_name(name: str) -> str:
    """A parameter's name without what wrappers put in front of or into it."""
    parts = [part for part in name.split(".") if part != "_orig_mod"]
    return ".".join(parts[1:] if parts[0] == "module" else parts)


def local_shard(tensor: torch.Tensor) -> torch.Tensor:
    """This rank's part of a sharded tensor; a plain tensor itself."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
