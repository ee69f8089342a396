"""What the scripts of all kinds of machine have in common: bash text, quoted."""

import os
import shlex
from collections.abc import Iterable, Sequence

from cluster.config import ClusterConfig
from cluster.job import Job

quote = shlex.quote


def lines_before_agent(job: Job, config: ClusterConfig) -> list[str]:
    """Set-up and environment, after which an agent may start."""
    env = {
        # `python -m` puts the present folder first on sys.path: a stray types.py there would be imported.
        "PYTHONSAFEPATH": "1",
        **job.env,
        **config.env,
    }
    return [
        "set -eo pipefail",
        f"cd {quote(job.cwd)}",
        *config.setup,
        # torchrun sets 1 and prints a banner where it is missing. What the user has set says more than ours.
        f'export OMP_NUM_THREADS="${{OMP_NUM_THREADS:-{job.threads}}}"',
        *(f"export {name}={quote(value)}" for name, value in env.items()),
    ]


def user_threads() -> int | None:
    """Threads of each process as the user has set them here; None to choose."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdigit() and int(asked) > 0 else None


def agent_arguments(job: Job, nodes: str) -> list[str]:
    """Arguments of torch's elastic agent that are the same on every machine, each quoted."""
    return [f"--nnodes={nodes}", f"--nproc-per-node={job.nproc_per_node}", "--max-restarts=0"]


def words(command: Sequence[str]) -> str:
    """Words of a command, quoted."""
    return " ".join(quote(word) for word in command)


def continued(rows: Iterable[str]) -> str:
    """One command on several rows."""
    return " \\\n  ".join(rows)
