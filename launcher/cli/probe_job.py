"""The batch job of `launch doctor --cluster`: a node_probe on each node, and what only the job can try."""

import os
import signal
import sys
import time
from pathlib import Path

from cluster.slurm_job import OwnJob, QueueError, Step, ask_slurm
from launcher import files
from launcher.cli.arguments import parse_supervised
from launcher.cli.node_probe import HOSTS, SECOND_PORT
from launcher.cli.places import LOGS
from launcher.cli.supervisor import Asked
from launcher.json_text import dump_json
from launcher.network import free_port

_LIMIT_S = 120.0


def main() -> int:
    """Run the probes; leave batch.json."""
    options, words = parse_supervised(sys.argv[1:])
    folder, job, asked = Path(options.run_dir), OwnJob(os.environ), Asked()
    signal.signal(signal.SIGUSR1, asked.receive)
    variables = {
        LOGS: str(folder),
        "LAUNCH_PORT": str(free_port(int(job.id), 1)),
        SECOND_PORT: str(free_port(int(job.id), 2)),
        "LAUNCH_MEETING": job.name,
        HOSTS: ",".join(job.hosts()),
    }
    step, deadline = Step(words, folder, variables), time.monotonic() + _LIMIT_S
    seen: dict[str, object] = {}
    try:
        shown = ask_slurm(["scontrol", "--oneliner", "show", "job", job.id])
        seen["requeue"] = "Requeue=1" in shown.split()
        ask_slurm(["scancel", "--batch", "--signal=USR1", job.id])
    except QueueError as error:
        seen["slurm"] = str(error)
    while step.code() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    step.kill()
    seen["signal"] = bool(asked.numbers)
    files.write_text(str(folder / "batch.json"), dump_json(seen) + "\n")
    return step.code() or 0


if __name__ == "__main__":
    sys.exit(main())
