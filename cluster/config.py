"""Cluster section of a recipe: which kind of machine, and what it is asked for. Torch-free."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class ClusterConfig(BaseModel):
    """Where the run starts. `auto` is slurm for several nodes on a host that has sbatch, else local."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)

    type: Literal["auto", "local", "slurm"] = "auto"
    nodes: Annotated[int, Field(ge=1)] = 1
    nproc_per_node: Annotated[int, Field(ge=1)] = 1
    """Processes per node: one per GPU, or a few on a CPU machine."""
    time_min: Annotated[int, Field(ge=1)] | None = None
    """Slurm time limit in minutes."""
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    gpus_per_node: Annotated[int, Field(ge=1)] | None = None
    cpus_per_node: Annotated[int, Field(ge=1)] | None = None
    """Slurm --cpus-per-task of the one torchrun agent on each node."""
    sbatch_options: tuple[str, ...] = ()
    """Further sbatch options, each one word such as --exclude=n[3-4]."""
    setup: tuple[str, ...] = ()
    """Shell lines run on the batch host before training, such as `module load cuda`."""
    env: dict[str, str] = {}
    """Environment variables of the training processes."""
