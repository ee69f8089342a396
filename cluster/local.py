"""This machine: one torchrun agent that starts all processes."""

import os
import sys
from pathlib import Path
from typing import NoReturn, final

from cluster.config import ClusterConfig
from cluster.job import Cluster, Job, JobError
from cluster.shell import agent_arguments, continued, lines_before_agent, quote, words


@final
class LocalCluster(Cluster):
    """Runs a job in the foreground of the terminal it is started from."""

    def __init__(self, config: ClusterConfig) -> None:
        self.config = config

    def threads(self, nproc_per_node: int) -> int:
        """An equal share of the CPUs this process may use."""
        return max(1, _num_cpus() // nproc_per_node)

    def render(self, job: Job) -> str:
        """A bash script that ends by becoming the agent, so that signals reach it."""
        if job.nodes != 1:
            raise JobError(f"local: got {job.nodes} nodes; this machine is 1 node", "cluster.nodes")
        agent = [
            f"exec {quote(job.python)} {words(job.agent)}",
            " ".join(agent_arguments(job)),
            # Port 0: the kernel picks a free one, and the agent keeps it. An address because a machine's own
            # name need not resolve.
            "--rdzv-backend=c10d --rdzv-endpoint=127.0.0.1:0 --local-addr=127.0.0.1",
            words(job.command),
        ]
        return "\n".join(
            [
                "#!/bin/bash",
                f"# {job.name}: {job.nproc_per_node} processes on this machine. Run again to resume.",
                *lines_before_agent(job, self.config),
                continued(agent),
                "",
            ]
        )

    def submit(self, script: Path) -> NoReturn:
        """Become the script: it replaces this process, and its exit status is the run's."""
        sys.stdout.flush()
        sys.stderr.flush()
        os.execvp("bash", ["bash", os.path.abspath(script)])


def _num_cpus() -> int:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
