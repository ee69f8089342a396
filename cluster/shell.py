"""What the scripts of all kinds of machine have in common: bash text, quoted."""

import os
import re
import shlex
from collections.abc import Iterable, Sequence

from cluster.config import ClusterConfig
from cluster.job import Job

quote = shlex.quote
SOCKET_INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


def lines_before_agent(job: Job, config: ClusterConfig) -> list[str]:
    """Set-up and environment, after which an agent may start."""
    return ["set -eo pipefail", f"cd {quote(job.cwd)}", *config.setup, *environment_lines(job, config)]


def environment_lines(job: Job, config: ClusterConfig) -> list[str]:
    """The environment of a job's processes, as bash exports."""
    interface = config.interface
    env = {
        **({} if interface is None else dict.fromkeys(SOCKET_INTERFACES, interface)),
        # `python -m` puts the present folder first on sys.path: a stray types.py there would be imported.
        "PYTHONSAFEPATH": "1",
        **job.env,
        **config.env,
    }
    # Of a node's own disk; what variables it names, only the node knows.
    scratch = [] if config.scratch is None else [f"export TMPDIR={_in_double_quotes(config.scratch)}"]
    return [
        *scratch,
        # torchrun sets 1 and prints a banner where it is missing. What the user has set says more than ours.
        f'export OMP_NUM_THREADS="${{OMP_NUM_THREADS:-{job.threads}}}"',
        *(f"export {name}={quote(value)}" for name, value in env.items()),
    ]


def _in_double_quotes(text: str) -> str:
    """A word in which $NAME and ${NAME} are replaced, and nothing else means anything to bash."""
    escaped = re.sub(r'([\\\\"`])', r"\\\1", text)
    return (
        '"'
        + re.sub(r"\$(?!\{?[A-Za-z_])|\$\{(?![A-Za-z_]\w*\})", lambda found: "\\" + found[0], escaped)
        + '"'
    )


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
