"""Parallelism section of a recipe. Torch-free."""

from typing import Annotated, Literal

from pydantic import Field

from models.section import Count, Positive, Section

BUCKET = 1 << 26
"""Most numbers that DeepSpeed sends at once. Its own 5e8 are 2 GB of buffers on every rank, however small
the model."""


class ParallelConfig(Section):
    """Who owns forward, backward and step, how parameters are sharded, and in what precision it computes."""

    engine: Literal["torch", "deepspeed"] = "torch"
    """Who shards: plain torch (single, DDP, FSDP2, HSDP) or DeepSpeed (ZeRO)."""
    strategy: Literal["single", "ddp", "fsdp2", "hsdp"] = "fsdp2"
    """torch engine only; without meaning for deepspeed."""
    zero_stage: Annotated[int, Field(ge=0, le=3)] | None = None
    """deepspeed engine only: what is sharded. 0 nothing, 1 moments, 2 also gradients, 3 also parameters."""
    shard_size: Count | None = None
    """hsdp: ranks per shard group; default is the processes of one node."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: matrix products in bfloat16; parameters, moments, reductions and SSM kernels stay float32."""
    tf32: bool = False
    """Let float32 matrix products use TF32 (10 bits of mantissa) where the GPU has it."""
    activation_checkpointing: Literal["off", "selective", "full"] = "off"
    """Recompute each layer's activations in backward; selective keeps results of matrix products and FFTs."""
    compile: bool = False
    """torch.compile each layer."""
    cpu_offload: bool = False
    """fsdp2 and hsdp on GPUs: keep parameters, gradients and moments in host memory and step there."""
    timeout_s: Positive = 600.0
    """A collective that takes longer ends the attempt; at least the longest limit of the guard's watchdog."""
