"""This machine, or several on which the same script is started by hand: a torchrun agent on each."""

import hashlib
import os
import sys
from pathlib import Path
from typing import NoReturn, final

from cluster.config import ClusterConfig
from cluster.devices import usable_cpus, visible_gpus
from cluster.job import Cluster, Job, JobError
from cluster.shell import agent_arguments, continued, lines_before_agent, quote, words


@final
class LocalCluster(Cluster):
    """Runs a job in the foreground of the terminal it is started from."""

    def __init__(self, config: ClusterConfig) -> None:
        self.config = config

    def threads(self, nproc_per_node: int) -> int:
        """An equal share of the CPUs this process may use."""
        return max(1, usable_cpus() // nproc_per_node)

    def require_devices(self, nproc_per_node: int) -> None:
        """See Cluster: more processes than there are GPUs, where there are any."""
        if 0 < (gpus := visible_gpus()) < nproc_per_node:
            message = (
                f"got {nproc_per_node} processes for the {gpus} GPU(s) of this machine; at most one each: "
                f"--nproc-per-node {gpus}, or auto; CUDA_VISIBLE_DEVICES= trains on its CPUs"
            )
            raise JobError(message, "cluster.nproc_per_node")

    def render(self, job: Job) -> str:
        """A bash script that ends by becoming the agent, so that signals reach it."""
        # A range, even of one number: for the agent, a lost node may come back.
        nodes = "1" if job.nodes == 1 else f"{job.min_nodes or job.nodes}:{job.nodes}"
        agent = [
            f"exec {quote(job.python)} {words(job.agent)}",
            " ".join(agent_arguments(job, nodes)),
            self._meeting(job),
            words(job.command),
        ]
        where = "this machine" if job.nodes == 1 else f"each of {job.nodes} nodes, where this is started"
        return "\n".join(
            [
                "#!/bin/bash",
                f"# {job.name}: {job.nproc_per_node} processes on {where}. Run again to resume.",
                *lines_before_agent(job, self.config),
                continued(agent),
                "",
            ]
        )

    def _meeting(self, job: Job) -> str:
        """The agent's arguments on where nodes meet."""
        if job.nodes == 1:
            # Port 0: the kernel picks a free one, and the agent keeps it. An address because a machine's own
            # name need not resolve.
            return "--rdzv-backend=c10d --rdzv-endpoint=127.0.0.1:0 --local-addr=127.0.0.1"
        if self.config.rendezvous is None:
            raise JobError(f"local: got {job.nodes} nodes; this machine is 1 node", "cluster.nodes")
        if "://" in job.run_dir:
            raise JobError(f"run_dir is {job.run_dir!r}; it must be a path that all nodes share")
        # A lost node is noticed after 5 x 2 s without a sign of life; then others have 10 s to join. Who is
        # alone waits a day for others.
        timing = "keep_alive_interval=2,keep_alive_max_attempt=5,last_call_timeout=10,join_timeout=86400"
        job_id = hashlib.sha256(job.run_dir.encode()).hexdigest()[:16]
        return (
            f"--rdzv-backend=c10d --rdzv-endpoint={quote(self.config.rendezvous)}"
            f" --rdzv-id={job_id} --rdzv-conf={timing},read_timeout=600"
        )

    def submit(self, script: Path) -> NoReturn:
        """Become the script: it replaces this process, and its exit status is the run's."""
        sys.stdout.flush()
        sys.stderr.flush()
        os.execvp("bash", ["bash", os.path.abspath(script)])
