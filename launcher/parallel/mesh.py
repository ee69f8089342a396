"""The device mesh, how a model is cut over it, and how its layers are wrapped."""

import warnings

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from launcher.parallel.config import ParallelConfig
from launcher.world import World
from models.layers import Linear
from models.step_kernels import KernelSource

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
            if world.size % shard_size:
                raise ValueError(f"shard_size {shard_size} does not divide the {world.size} ranks")
            # 8 ranks, shard_size 4: a (2, 4) mesh. Ranks 0 to 3 hold one copy of the model between them, 4 to
            # 7 another; rank 1 reduces its gradients with 0, 2, 3 by shard and with 5 by replica.
            return init_device_mesh(
                world.device.type,
                (world.size // shard_size, shard_size),
                mesh_dim_names=(REPLICATE_AXIS, SHARD_AXIS),
            )


def shard_model(
    model: nn.Module, mesh: DeviceMesh | None, config: ParallelConfig, *, shares_kernels: bool
) -> nn.Module:
    """Shard every residual layer as one unit, then what is left (embedding, last norm, readout) as the root.

    Where a step's micro batches share kernels, the state spaces of all layers are one unit: their gradients
    come last, after those of the layers.

    With bf16, each Linear is a unit of its own that travels in bfloat16: autocast would round its weight to
    bfloat16 all the same, so the numbers are those of an unsharded run, and it is half the bytes. Everything
    else, above all the SSM's tensors, travels in float32. Gradients are always reduced in float32.
    """
    if mesh is None:
        return model
    pinned = mesh.device_type == "cuda"
    offload = CPUOffloadPolicy(pin_memory=pinned) if config.cpu_offload else OffloadPolicy()
    # A hook inside a compiled layer would break its graph: there the layer stays one unit.
    if config.precision == "bf16" and not config.compile:
        rounded = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        for module in list(model.modules()):
            if isinstance(module, Linear):
                fully_shard(module, mesh=mesh, mp_policy=rounded, offload_policy=offload)
    spaces: list[nn.Module] = [module for module in model.modules() if isinstance(module, KernelSource)]
    if spaces and shares_kernels:
        fully_shard(spaces, mesh=mesh, offload_policy=offload)
    # inside out: a unit takes the parameters that no unit within it has taken, and the root what is left
    for layer in model.get_submodule("layers").children():
        fully_shard(layer, mesh=mesh, offload_policy=offload)
    fully_shard(model, mesh=mesh, offload_policy=offload)
    return model


def replicate_model(model: nn.Module, config: ParallelConfig, world: World) -> nn.Module:
    """Wrap an initialised model for gradient averaging where the strategy replicates it; else return it."""
    if config.strategy != "ddp" or world.size == 1:
        return model
    devices = [world.device] if world.device.type == "cuda" else None
    # Of a layer that is called for several groups of documents, D (H, 1) may get a gradient whose dimension
    # of size 1 has another stride: the same numbers in the same order, and a page of C++ on every console.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    with warnings.catch_warnings():
        # torch 2.13 says on every rank that this option has a new name, which torch 2.9 does not know.
        warnings.filterwarnings("ignore", message=".*broadcast_buffers.*")
        # Buffers are averaged where they are read, under every strategy alike: see average_buffers.
        return DistributedDataParallel(
            model, device_ids=devices, gradient_as_bucket_view=True, broadcast_buffers=False
        )


def plain_name(name: str) -> str:
    """A parameter's name without the prefix that DistributedDataParallel gives it."""
    return name.removeprefix("module.")


def local_shard(tensor: torch.Tensor) -> torch.Tensor:
    """This rank's part of a sharded tensor; a plain tensor itself."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
