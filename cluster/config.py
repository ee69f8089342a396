"""Cluster section of a recipe: which kind of machine, and what it is asked for. Torch-free."""

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema

if TYPE_CHECKING:
    from cluster.job import Cluster

_MOST = 1 << 24
Count = Annotated[int, Field(ge=1, le=_MOST)]
_COUNT = {"type": "integer", "minimum": 1, "maximum": _MOST}

OWNED_OPTIONS = {
    ("-J", "--job-name"): "the recipe's `name`",
    ("-N", "--nodes"): "`cluster.nodes`",
    ("-n", "--ntasks"): "one agent per node; `cluster.nproc_per_node` says how many processes it starts",
    ("--ntasks-per-node",): "one agent per node; `cluster.nproc_per_node` says how many processes it starts",
    ("-G", "--gpus", "--gpus-per-node"): "`cluster.gpus_per_node`",
    ("--signal",): "`cluster.warning_s`: the script saves at its own signal, and asks Slurm for no other",
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
OWNED_BY_SRUN = {
    **{names: OWNED_OPTIONS[names] for names in OWNED_OPTIONS if names[-1] in ("--nodes", "--ntasks")},
    ("--ntasks-per-node",): OWNED_OPTIONS["--ntasks-per-node",],
    ("-c", "--cpus-per-task"): "`cluster.cpus_per_node`",
    ("-o", "--output", "-e", "--error", "--open-mode"): "RUN/logs, one file per node",
    ("-K", "--kill-on-bad-exit", "--export"): "the script",
    ("--container-image", "--container-mounts"): "`cluster.container`",
}
"""The same for the one srun of the script."""


def _check_env_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ValueError(f"{name!r} cannot name an environment variable; use letters, digits and _")
    return name


def _check_one_line(text: str) -> str:
    if not text.strip() or not text.isprintable():
        raise ValueError(f"got {text!r}; it must be one line, not empty, of printable characters")
    return text


def _check_option(option: str, owned: Mapping[tuple[str, ...], str]) -> str:
    if not re.fullmatch(r"-[A-Za-z](\S.*)?|--[a-z][a-z0-9-]*(=.*)?", _check_one_line(option)):
        name, _, value = option.partition(" ")
        meant = f"; write {name}={value.strip()}" if re.fullmatch(r"--[a-z-]+ +\S.*", option) else ""
        raise ValueError(f"got {option!r}; an option is one word such as --hint=nomultithread{meant}")
    for names, source in owned.items():
        for name in names:
            same = option.split("=")[0] == name if name.startswith("--") else option.startswith(name)
            if same and not (option.startswith("--") and len(name) == 2):
                raise ValueError(f"{option!r} is set by {source}; it cannot be given here as well")
    return option


def _check_sbatch_option(option: str) -> str:
    return _check_option(option, OWNED_OPTIONS)


def _check_srun_option(option: str) -> str:
    return _check_option(option, OWNED_BY_SRUN)


def _check_address(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not re.fullmatch(r"[A-Za-z0-9._-]+", host) or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"got {text!r}; write HOST:PORT, such as node1:29400")
    return text


Line = Annotated[str, AfterValidator(_check_one_line)]
Address = Annotated[str, AfterValidator(_check_address)]
EnvName = Annotated[str, AfterValidator(_check_env_name)]
SbatchOption = Annotated[str, AfterValidator(_check_sbatch_option)]
SrunOption = Annotated[str, AfterValidator(_check_srun_option)]


class ContainerConfig(BaseModel):
    """The container that each node's processes run in. Its image needs the same Python as the submit host."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)

    runtime: Literal["pyxis", "apptainer"]
    """pyxis: srun's own options for enroot; apptainer: started on each node, with its GPUs."""
    image: Line
    """For pyxis a registry's name or a .sqsh file, for apptainer a .sif file."""
    mounts: tuple[Line, ...] = ()
    """SOURCE:TARGET or one path, each; the run folder and the working folder are mounted by themselves."""


Figure = Annotated[float, Field(gt=0)]


class HardwareConfig(BaseModel):
    """What one device and its links can do, for the forecast of `launch plan` and the share a run reaches."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)

    memory_gib: Figure
    """Of one device, as its driver says: 79.1 for an H100 of 80 GB."""
    tflops: Figure
    """Dense products a second at the run's precision, in 1e12: 989 for an H100 in bfloat16."""
    mfu: tuple[Figure, Figure] = (0.2, 0.45)
    """Share of it that a run reaches: slowest and fastest. What you have measured is better."""
    node_gb_per_s: Figure = 300.0
    """From one device to the others of its node, in one direction."""
    network_gb_per_s: Figure = 25.0
    """From one device to other nodes: 25 where each has a port of 200 Gb/s to itself."""
    storage_gb_per_s: Figure | None = None
    """That the whole run writes checkpoints at."""
    node_mtbf_hours: Figure | None = None
    """Mean time between failures of one node."""
    watts: Figure | None = None
    """Of one device, its share of the node included."""
    pue: Annotated[float, Field(ge=1)] = 1.0
    """Power usage effectiveness of the site: what it takes from the grid for each kWh of its machines."""
    co2_g_per_kwh: Figure | None = None
    """Of the site's electricity."""
    price_per_hour: Figure | None = None
    """Of one device, in any currency."""


class ClusterConfig(BaseModel):
    """Where the run starts. `auto` is slurm for several nodes on a host that has sbatch, else local."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)

    added: ClassVar[Mapping[str, Callable[["ClusterConfig"], "Cluster"]]] = {}
    """Kinds that extensions add, by `type`."""

    type: Literal["auto", "local", "slurm"] = "auto"
    nodes: Count = 1
    """Number of nodes; --nodes wins."""
    min_nodes: Count | None = None
    """Fewest nodes to continue with when others are lost, outside of Slurm; null is all of `nodes`. A step
    keeps its samples. `--nodes MIN:MAX` sets both."""
    rendezvous: Address | None = None
    """HOST:PORT of one of several nodes, where all of them meet; each is started with RUN/job.sh, by hand."""
    nproc_per_node: Annotated[Count, WithJsonSchema({"anyOf": [_COUNT, {"const": "auto"}]})] = 1
    """Processes per node. auto: one per GPU of the node; without GPUs two on this machine's CPUs; or fewer,
    so that the batch divides. What was found is what is frozen."""
    time_min: Count | None = None
    """Slurm time limit in minutes; null is the partition's default."""
    partition: Line | None = None
    """Slurm partition; null is the site's default."""
    account: Line | None = None
    """Slurm account to charge; null is your default."""
    qos: Line | None = None
    """Slurm quality of service; null is your default."""
    profile: Line | None = None
    """A site's facts: NAME of cluster-profiles/NAME.yaml here or in the user's configuration folder, or a
    path. What the recipe says itself wins."""
    gpus_per_node: Count | None = None
    """GPUs that Slurm is asked for on each node; null asks for none."""
    gpus_as: Literal["gpus-per-node", "gres"] = "gpus-per-node"
    """The option that asks for them: --gpus-per-node=N, or --gres=gpu:N where a site has no other."""
    gpu_type: Line | None = None
    """Kind of GPU to ask for, such as h100."""
    memory: Line | None = None
    """Memory of each node as sbatch's --mem takes it: 200G, or 0 for all."""
    exclude: Line | None = None
    """Nodes not to use, such as n[3-4]."""
    warning_s: Annotated[int, Field(ge=10, le=65535)] = 120
    """How long before the time limit Slurm is to warn, so that a step and a checkpoint fit before it."""
    cpus_per_node: Count | None = None
    """CPUs that Slurm is asked for on each node, shared by its processes; null is one per process."""
    sbatch_options: tuple[SbatchOption, ...] = ()
    """Further sbatch options, each one word such as --hint=nomultithread."""
    srun_options: tuple[SrunOption, ...] = ()
    """Further options of the srun that starts each node, each one word such as --mpi=none."""
    container: ContainerConfig | None = None
    hardware: HardwareConfig | None = None
    """Figures of the devices, for `launch plan`."""
    interface: Line | None = None
    """Network interface for what ranks send each other, such as ib0; null is that of the node's address."""
    scratch: Line | None = None
    """Folder on each node's own disk for temporary files; may name variables, such as $SLURM_TMPDIR."""
    setup: tuple[str, ...] = ()
    """Shell lines run on every node before training, such as `module load cuda`."""
    env: dict[EnvName, Line] = {}
    """Environment variables of the training processes; they win over what `launch` sets itself."""
