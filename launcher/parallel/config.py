"""Parallelism section of a recipe. Torch-free."""

from typing import Annotated, Literal

from pydantic import Field

from models.section import Section


class ParallelConfig(Section):
    """Who owns forward, backward and step, and how parameters are sharded."""

    engine: Literal["torch", "deepspeed"] = "torch"
    strategy: Literal["single", "ddp", "fsdp2", "hsdp"] = "fsdp2"
    """torch engine only."""
    zero_stage: Annotated[int, Field(ge=0, le=3)] | None = None
    """deepspeed engine only."""
    shard_size: Annotated[int, Field(ge=1)] | None = None
    """hsdp: ranks per shard group; default is the processes of one node."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: compute in bfloat16 with float32 parameters, reductions and SSM kernels."""
