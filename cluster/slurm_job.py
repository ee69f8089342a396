"""A job of Slurm: its state, its requeue or resubmission, and the step of srun inside it."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from cluster.sbatch import submit_script

_ASK_TIMEOUT_S = 60
OVER = ("COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY", "DEADLINE")


_ENDED = re.compile(r"\*\*\* STEP \S+ ON \S+ CANCELLED AT \S+ DUE TO ([A-Z ]+[A-Z])")
_STATES = {
    "PREEMPTION": "PREEMPTED",
    "TIME LIMIT": "TIMEOUT",
    "NODE FAILURE": "NODE_FAIL",
    "JOB REQUEUE": "PENDING",
}
"""Of slurmstepd's reasons (src/slurmd/slurmstepd/req.c). While a job is COMPLETING nothing else says them."""


class QueueError(RuntimeError):
    """Slurm gave no answer, or refused; the message is its own. It does not mean that a job is gone."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class JobState:
    """What Slurm says of a job."""

    state: str
    """RUNNING, PENDING, SUSPENDED, COMPLETING, ...; UNKNOWN for one that it has forgotten."""
    ending: str = ""
    """Of a COMPLETING job: what it will be next, such as CANCELLED, PREEMPTED, TIMEOUT or PENDING."""
    reason: str = ""
    restarts: int = 0
    """How often it was queued again; of a COMPLETING job, already with the requeue under way."""
    seconds_left: float | None = None
    """Until its time limit; None without one."""
    nodes: str = ""
    begin: str = ""
    """When a PENDING job is expected to start."""

    @property
    def is_over(self) -> bool:
        """Whether it will do nothing more."""
        return self.state in OVER or self.state == "UNKNOWN"


def ask_job(job_id: str, of_run: str = "") -> JobState:
    """The state of a job. Raises QueueError where Slurm does not answer.

    A job that does not run a script of `of_run`, a run's folder, is UNKNOWN: numbers are given out again.
    """
    done = _run(["scontrol", "--oneliner", "show", "job", job_id])
    if done.returncode != 0:
        if "Invalid job id" in done.stderr:
            return JobState(state="UNKNOWN")
        raise QueueError(_line(done))
    if of_run and f"Command={of_run.rstrip('/')}/" not in done.stdout:
        return JobState(state="UNKNOWN")
    # Values may hold spaces, but not those that are asked for here, which come before such.
    fields = dict(re.findall(r"(?:^|\s)(\w+)=(\S*)", done.stdout))
    state = fields.get("JobState", "UNKNOWN")
    return JobState(
        state=state,
        ending=_state_after(job_id) if state == "COMPLETING" else "",
        reason=fields.get("Reason", ""),
        restarts=int(fields.get("Restarts", 0)),
        seconds_left=_seconds_until(fields.get("EndTime", "")),
        nodes=fields.get("NodeList", ""),
        begin=fields.get("StartTime", ""),
    )


def _state_after(job_id: str) -> str:
    """The state under the flag COMPLETING, which only the JSON has; empty where it cannot be had."""
    try:
        jobs = json.loads(_run(["squeue", "--json"]).stdout)["jobs"]
        job = next(job for job in jobs if str(job["job_id"]) == job_id)
    except (ValueError, KeyError, StopIteration, QueueError):
        return ""
    found = job["job_state"]
    names = [found] if isinstance(found, str) else found  # a list in newer versions
    return next((name for name in names if name != "COMPLETING"), "")


def _seconds_until(text: str) -> float | None:
    try:
        return time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%S")) - time.time()
    except ValueError:  # "Unknown", for a job without a limit
        return None


@final
class OwnJob:
    """The job that this process is in."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.id = environment["SLURM_JOB_ID"]
        self.restarts = int(environment.get("SLURM_RESTART_COUNT", "0"))
        self.name = f"{self.id}.{self.restarts}"

    def ask(self) -> JobState:
        """See ask_job."""
        return ask_job(self.id)

    def hosts(self) -> list[str]:
        """Names of its nodes, in Slurm's order. Raises QueueError."""
        return ask_slurm(["scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"]]).split()

    def requeue(self) -> None:
        """Queue this job again; Slurm then ends this process. Raises QueueError where that is refused."""
        ask_slurm(["scontrol", "requeue", self.id])

    def keep_from_requeue(self) -> None:
        """Do not let Slurm queue it again by itself: another job takes its place."""
        _run(["scontrol", "update", f"jobid={self.id}", "requeue=0"])

    def resubmit(self, script: Path, *, wait_for_this: bool, exclude: Sequence[str] = ()) -> str:
        """Submit the script as another job, and return its id. Raises SubmitError."""
        options = [f"--dependency=afterany:{self.id}"] if wait_for_this else []
        if exclude:
            # The last one counts, so what the script leaves out comes along.
            said = re.findall(r'^#SBATCH "?(?:-x ?|--exclude[= ])([^"\s]+)', script.read_text(), re.MULTILINE)
            options.append(f"--exclude={','.join([*said[-1:], *exclude])}")
        return submit_script(script, options)


@final
class Step:
    """One srun: a task on each node."""

    def __init__(self, words: Sequence[str], logs: Path, variables: Mapping[str, str]) -> None:
        self._logs, output = logs, str(logs).replace("%", "%%")
        command = [words[0], f"--output={output}/node-%N.log", "--open-mode=append", *words[1:]]
        with open(logs / "srun.log", "ab") as log:
            # A session of its own: what is sent to the script's process group would have srun kill its tasks.
            self._process = subprocess.Popen(
                command,
                env={**os.environ, **variables},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def code(self) -> int | None:
        """The highest exit code of its tasks; None while they run."""
        return self._process.poll()

    def ask_to_stop(self) -> None:
        """Send all tasks SIGUSR1, which srun passes on."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGUSR1)

    def ended_as(self) -> str:
        """What Slurm has written to the tasks' output of why it ends them, as a state; empty if nothing."""
        for path in sorted(self._logs.glob("node-*.log")):
            if found := _ENDED.findall(path.read_text(errors="replace")):
                return _STATES.get(found[-1], "")
        return ""

    def kill(self) -> None:
        """End srun, and with it the tasks that can be reached."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()


def kill_wait_s() -> float:
    """Seconds between SIGTERM and SIGKILL to tasks; Slurm's default where it does not answer."""
    try:
        found = re.search(r"^KillWait\s*=\s*(\d+)", _run(["scontrol", "show", "config"]).stdout, re.MULTILINE)
    except QueueError:
        found = None
    return float(found[1]) if found else 30.0


def cancel_job(job_id: str) -> None:
    """Cancel a job; one that is over stays as it is. Raises QueueError."""
    ask_slurm(["scancel", job_id])


def ask_slurm(words: Sequence[str]) -> str:
    """What one of Slurm's commands prints. Raises QueueError."""
    done = _run(words)
    if done.returncode != 0:
        raise QueueError(_line(done))
    return done.stdout


def _line(done: subprocess.CompletedProcess[str]) -> str:
    lines = (done.stderr or done.stdout).strip().splitlines()
    return lines[0] if lines else f"ended with {done.returncode}"


def _run(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_ASK_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise QueueError(f"{words[0]}: {error}") from None
