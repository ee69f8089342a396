"""`launch cancel RUN`."""

import contextlib
import os
import signal
import socket
import time
from collections.abc import Sequence
from pathlib import Path

from cluster.slurm_job import QueueError, cancel_job
from launcher import files
from launcher.cli.arguments import A_RUN
from launcher.cli.parser import Parser
from launcher.cli.queued import ask_queue
from launcher.errors import Problem, UserError
from launcher.fence import read_owner
from launcher.named_runs import find_run
from launcher.run_folder import JOURNAL, lock_holder, open_mirror, require_run
from launcher.run_jobs import record_job
from launcher.track.settle import last_attempt

_WAIT_S = 60.0


def cancel_run(arguments: Sequence[str]) -> int:
    """End a run's training, in the queue or on this machine: it saves, and is not started again by itself."""
    parser = Parser(
        prog="launch cancel",
        description="End a run's training: it saves, where there is time for it, and is not started again by "
        "itself. `launch resume RUN` continues it.",
    )
    parser.add_argument("run", help=A_RUN)
    run_url = find_run(parser.parse_args(arguments).run)
    require_run(run_url)
    short = files.shortest(run_url)
    try:
        queued = ask_queue(run_url)
        if queued is not None and not queued.state.is_over:
            # First the word, then the deed: the job may be about to be queued again.
            record_job(run_url, "cancelled", queued.job, {})
            cancel_job(queued.job)
            print(f"job {queued.job} is cancelled: it saves if there is time, and is not queued again")
            return 0
    except QueueError as error:
        raise UserError(Problem(short, str(error), f"when Slurm answers: launch cancel {short}")) from None
    holder = lock_holder(run_url)
    if holder is None:
        print(f"nobody trains {short}")
        return 0
    agent = find_agent(run_url)
    if agent is None:
        raise UserError(Problem(short, f"is being trained by {holder}", "call it on that machine"))
    os.kill(agent, signal.SIGTERM)
    print(f"asked {holder} to save and stop", flush=True)
    deadline = time.monotonic() + _WAIT_S
    while lock_holder(run_url) is not None or find_agent(run_url) == agent:
        if time.monotonic() > deadline:
            print(f"it has not ended yet: launch status {short}")
            return 0
        time.sleep(0.2)
    last = last_attempt(open_mirror(run_url, is_main=True).folder / JOURNAL)
    if last is not None and last.end is not None:
        print(f"{last.end['class']}: {last.end.get('reason', '')}")
    return 0


def find_agent(run_url: str) -> int | None:
    """The process on this machine that started the ranks of a run; None if they are elsewhere."""
    owner = read_owner(run_url)
    if owner is None or owner.get("host") != socket.gethostname():
        return None
    # A number of a process that is gone may be another's by now.
    with contextlib.suppress(OSError, ValueError):
        pid = int(owner["agent"])
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if b"launcher.cli.agent" in words and run_url.encode() in words:
            return pid
    return None
