"""Cluster section of a recipe: which kind of machine, and what it is asked for. Torch-free."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=1, le=1 << 24)]

OWNED_OPTIONS = {
    ("-J", "--job-name"): "the recipe's `name`",
    ("-N", "--nodes"): "`cluster.nodes`",
    ("-n", "--ntasks"): "one agent per node; `cluster.nproc_per_node` says how many processes it starts",
    ("--ntasks-per-node",): "one agent per node; `cluster.nproc_per_node` says how many processes it starts",
    ("-G", "--gpus", "--gpus-per-node"): "`cluster.gpus_per_node`",
    ("-c", "--cpus-per-task"): "`cluster.cpus_per_node`",
    ("-t", "--time"): "`cluster.time_min`",
    ("-p", "--partition"): "`cluster.partition`",
    ("-A", "--account"): "`cluster.account`",
    ("-q", "--qos"): "`cluster.qos`",
    ("-o", "--output"): "RUN/logs, always",
    ("--open-mode",): "append, always: a requeued job must keep its first attempt's log",
    ("-D", "--chdir"): "the folder that `launch` was called in",
    ("-a", "--array"): "one job per run",
    ("--wrap",): "the rendered script",
    ("--parsable",): "submission",
    ("--test-only",): "submission",
    ("-W", "--wait"): "submission",
}
"""sbatch options that come from elsewhere, and from where: a second value would contradict the first."""


def _check_env_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ValueError(f"{name!r} cannot name an environment variable; use letters, digits and _")
    return name


def _check_one_line(text: str) -> str:
    if not text.strip() or not text.isprintable():
        raise ValueError(f"got {text!r}; it must be one line, not empty, of printable characters")
    return text


def _check_sbatch_option(option: str) -> str:
    if not re.match(r"-[A-Za-z]|--[a-z]", _check_one_line(option)):
        raise ValueError(f"got {option!r}; an option is one word such as --exclude=n[3-4]")
    for names, source in OWNED_OPTIONS.items():
        for name in names:
            same = option.split("=")[0] == name if name.startswith("--") else option.startswith(name)
            if same and not (option.startswith("--") and len(name) == 2):
                raise ValueError(f"{option!r} is set by {source}; it cannot be given here as well")
    return option


def _check_address(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not re.fullmatch(r"[A-Za-z0-9._-]+", host) or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"got {text!r}; write HOST:PORT, such as node1:29400")
    return text


Line = Annotated[str, AfterValidator(_check_one_line)]
Address = Annotated[str, AfterValidator(_check_address)]
EnvName = Annotated[str, AfterValidator(_check_env_name)]
SbatchOption = Annotated[str, AfterValidator(_check_sbatch_option)]


class ClusterConfig(BaseModel):
    """Where the run starts. `auto` is slurm for several nodes on a host that has sbatch, else local."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)

    type: Literal["auto", "local", "slurm"] = "auto"
    nodes: Count = 1
    min_nodes: Count | None = None
    """Fewest nodes to continue with when others are lost, outside of Slurm; null is all of `nodes`. A step
    keeps its samples. `--nodes MIN:MAX` sets both."""
    rendezvous: Address | None = None
    """HOST:PORT of one of several nodes, where all of them meet; each is started with RUN/job.sh, by hand."""
    nproc_per_node: Count = 1
    """Processes per node: one per GPU, or a few on a CPU machine."""
    time_min: Count | None = None
    """Slurm time limit in minutes; null is the partition's default."""
    partition: Line | None = None
    account: Line | None = None
    qos: Line | None = None
    gpus_per_node: Count | None = None
    """GPUs that Slurm is asked for on each node; null asks for none."""
    cpus_per_node: Count | None = None
    """CPUs that Slurm is asked for on each node, shared by its processes; null is one per process."""
    sbatch_options: tuple[SbatchOption, ...] = ()
    """Further sbatch options, each one word such as --exclude=n[3-4]."""
    setup: tuple[str, ...] = ()
    """Shell lines run before training on the host that starts it, such as `module load cuda`."""
    env: dict[EnvName, Line] = {}
    """Environment variables of the training processes; they win over what `launch` sets itself."""
