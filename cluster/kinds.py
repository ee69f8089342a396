"""The kinds of machine there are, and which of them a recipe gets."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from cluster.config import ClusterConfig
from cluster.job import Cluster, JobError
from cluster.local import LocalCluster
from cluster.slurm import SlurmCluster

CLUSTERS: dict[str, Callable[[ClusterConfig], Cluster]] = {"local": LocalCluster, "slurm": SlurmCluster}


def sbatch_available() -> bool:
    """Whether this host can submit to Slurm."""
    return shutil.which("sbatch") is not None


def choose_cluster(config: ClusterConfig, *, has_sbatch: bool) -> Cluster:
    """The kind that `cluster.type` names; `auto` is slurm for several nodes where there is sbatch.

    Raises JobError for what this host cannot start.
    """
    kind = config.type
    if kind == "auto":
        kind = "slurm" if config.nodes > 1 and has_sbatch and config.rendezvous is None else "local"
    if kind == "local" and config.nodes > 1 and config.rendezvous is None:
        remedy = "set cluster.type=slurm" if has_sbatch else "submit from a host that has sbatch on its PATH"
        remedy += ", or set cluster.rendezvous=HOST:PORT and start the run's job.sh on each node"
        raise JobError(
            f"cluster.type is {config.type!r} with {config.nodes} nodes, but this machine is one node;"
            f" {remedy}, or run on 1 node",
            "cluster.nodes",
        )
    if kind == "slurm" and not has_sbatch:
        raise JobError(
            "cluster.type is 'slurm', but sbatch is not on PATH; submit from a host of a Slurm cluster,"
            " or set cluster.type=local",
            "cluster.type",
        )
    if kind == "slurm" and config.min_nodes is not None:
        raise JobError(
            f"cluster.min_nodes is {config.min_nodes}, but Slurm starts a job again on all its nodes;"
            " remove it, or set cluster.type=local and cluster.rendezvous",
            "cluster.min_nodes",
        )
    return (config.added[kind] if kind in config.added else CLUSTERS[kind])(config)


def on_submit_host() -> bool:
    """Whether jobs can be submitted from this host, and it is not a node of one."""
    if not sbatch_available() or "SLURM_JOB_ID" in os.environ:
        return False
    if "SLURM_CONF" in os.environ or any(Path(place).exists() for place in _CONFIGURATIONS):
        return True
    # Programs without a cluster: without a configuration, Slurm's commands would search for a minute.
    try:
        done = subprocess.run(["scontrol", "ping"], capture_output=True, timeout=3, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


_CONFIGURATIONS = ("/etc/slurm/slurm.conf", "/etc/slurm-llnl/slurm.conf", "/run/slurm/conf/slurm.conf")
