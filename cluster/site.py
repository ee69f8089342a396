"""What a cluster is like, as its Slurm says: versions, partitions, preemption, requeue, time limits."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

from cluster.slurm_job import QueueError, ask_slurm


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """A partition, and the nodes of its commonest kind."""

    name: str
    is_default: bool
    nodes: int
    time_limit: str
    cpus: int
    memory_mb: int
    gpus: int
    gpu_type: str
    preempt_mode: str
    grace_s: int


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A cluster."""

    config: Mapping[str, str]
    """Of `scontrol show config`."""
    partitions: Sequence[Partition]

    @property
    def name(self) -> str:
        """The cluster's own."""
        return self.config.get("ClusterName", "cluster")

    @property
    def default(self) -> Partition | None:
        """Where jobs go that name no partition."""
        named = [partition for partition in self.partitions if partition.is_default]
        return next(iter([*named, *self.partitions]), None)

    def find(self, name: str | None) -> Partition | None:
        """A partition by its name; the default for None."""
        if name is None:
            return self.default
        return next((partition for partition in self.partitions if partition.name == name), None)


def ask_site() -> Site:
    """Ask Slurm. Raises QueueError."""
    shown = ask_slurm(["scontrol", "show", "config"])
    config = dict(re.findall(r"^(\w+)\s*=\s*(.*?)\s*$", shown, re.MULTILINE))
    details = {}
    for line in ask_slurm(["scontrol", "--oneliner", "show", "partition"]).splitlines():
        fields = dict(re.findall(r"(\w+)=(\S*)", line))
        details[fields.get("PartitionName", "")] = fields
    found: dict[str, Partition] = {}
    for line in ask_slurm(["sinfo", "--noheader", "--exact", "--format=%R|%D|%l|%c|%m|%G"]).splitlines():
        name, nodes, limit, cpus, memory, gres = line.split("|")
        gpu = re.search(r"gpu:(?:([A-Za-z][\w.-]*):)?(\d+)", gres)
        fields = details.get(name, {})
        kind = Partition(
            name=name,
            is_default=fields.get("Default") == "YES",
            nodes=int(nodes),
            time_limit=limit,
            cpus=int(cpus.rstrip("+")),
            memory_mb=int(memory.rstrip("+")),
            gpus=int(gpu[2]) if gpu else 0,
            gpu_type=(gpu[1] or "") if gpu else "",
            preempt_mode=fields.get("PreemptMode", ""),
            grace_s=int(fields.get("GraceTime", "0")),
        )
        if name not in found or found[name].nodes < kind.nodes:
            found[name] = kind
    if not found:
        raise QueueError("sinfo names no partition")
    return Site(config=config, partitions=list(found.values()))


def profile_text(site: Site, partition: Partition) -> str:
    """A profile for jobs of this partition, with what there is to choose in comments."""
    others = ", ".join(other.name for other in site.partitions if other is not partition) or "none"
    # Without a limit of memory per node, Slurm's default may be a share of it for each CPU.
    lines = [
        f"# Cluster {site.name}, Slurm {site.config.get('SLURM_VERSION', 'of an unknown version')}.",
        "# Values for the `cluster` section of recipes; those of a recipe win. All keys: docs/slurm.md",
        "type: slurm",
        f"partition: {partition.name}          # others: {others}",
        "# account:                  # `sacctmgr show assoc user=$USER` lists yours",
        f"# time_min: 1440            # the limit here is {partition.time_limit}",
        f"cpus_per_node: {partition.cpus}",
    ]
    if partition.gpus:
        lines += [f"gpus_per_node: {partition.gpus}", f"nproc_per_node: {partition.gpus}"]
        lines += [f"gpu_type: {partition.gpu_type}"] if partition.gpu_type else []
    lines += [
        f'memory: "0"                 # all of a node, {partition.memory_mb // 1024} GiB',
        "warning_s: 120              # a step and a checkpoint must fit in it",
        "# setup: [module load cuda] # on every node, before training",
        "# interface: ib0            # where ranks meet; `launch doctor --cluster` lists them",
        "# scratch: $SLURM_TMPDIR",
        "# hardware: {memory_gib: 79.1, tflops: 989}   # figures for `launch plan`: docs/plan.md",
        "# exclude: n[3-4]",
    ]
    return "\n".join(lines) + "\n"
