"""Submission to Slurm by sbatch: what it is given, what it refuses, and what that means for a recipe."""

import difflib
import os
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from cluster.job import SubmitError

TIMEOUT_S = 300
"""sbatch itself gives up earlier: after 10 s (MessageTimeout), or 60 s where there is no slurm.conf."""
_KEYS: Mapping[str, str] = {
    r"invalid partition": "cluster.partition",
    r"invalid account": "cluster.account",
    r"invalid qos": "cluster.qos",
    r"time limit": "cluster.time_min",
    r"node count": "cluster.nodes",
    r"node name": "cluster.exclude",
    r"cpu count": "cluster.cpus_per_node",
    r"memory specification": "cluster.memory",
    r"generic resource|gres": "cluster.gpus_per_node",
    r"feature|reservation|license|dependency|option": "cluster.sbatch_options",
}
"""The recipe's key that a refusal is about. The first that fits counts."""
_MAY_WAIT = re.compile("required node not available|nodes are busy|reserved|maintenance", re.IGNORECASE)
"""What --test-only says of a job that would be taken, and wait."""
_KEPT = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT")
"""The SLURM_* variables that say which cluster to ask, and as whom. sbatch reads others as options."""


def try_script(text: str) -> list[str]:
    """Ask sbatch whether it would take a script; raises SubmitError. Returns what to know, as lines."""
    said = said_environment(text)
    with tempfile.NamedTemporaryFile("w", prefix="launch-", suffix=".sh") as file:
        file.write(text)
        file.flush()
        done = _sbatch(["--test-only", file.name], text)
    if done.returncode != 0:
        if _MAY_WAIT.search(done.stderr):
            return [*said, f"Slurm would take the job, and it would wait: {_first_cause(done.stderr)}"]
        raise refusal(done.stderr, done.returncode)
    return said


def submit_script(path: Path, options: Sequence[str] = ()) -> str:
    """Submit a file; returns the job's id. `options` win over those in the file. Raises SubmitError."""
    done = _sbatch(["--parsable", *options, str(path)], path.read_text())
    if done.returncode != 0:
        raise refusal(done.stderr, done.returncode)
    job_id = done.stdout.strip().split(";")[0]  # "ID;CLUSTER" where several clusters are known
    if not job_id.isdigit():
        raise SubmitError(f"sbatch answered {done.stdout!r}, which is not a job id")
    return job_id


def _sbatch(words: Sequence[str], script: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            ["sbatch", *words],
            env=environment_for_sbatch(os.environ, script),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except FileNotFoundError:
        raise SubmitError("sbatch is not on PATH; submit from a host of a Slurm cluster") from None
    except subprocess.TimeoutExpired:
        raise SubmitError(
            f"sbatch gave no answer within {TIMEOUT_S} s; `squeue --me` shows if it has the job"
        ) from None


def refusal(stderr: str, code: int) -> SubmitError:
    """sbatch's words in one line, with the key of the recipe that they are about and what is allowed."""
    cause = _first_cause(stderr) or f"sbatch ended with {code} and said nothing"
    key = next((key for pattern, key in _KEYS.items() if re.search(pattern, cause, re.IGNORECASE)), "")
    remedy = ""
    if key == "cluster.partition":
        named = cause.rpartition(": ")[2] if "specified: " in cause else ""
        remedy = _nearest_partition(named)
    elif key == "cluster.nodes":
        remedy = "`sinfo` shows how many nodes each partition has"
    elif key == "cluster.time_min":
        remedy = "`sinfo -o '%P %l'` shows the limit of each partition"
    elif "node configuration" in cause:
        remedy = "more nodes, CPUs, GPUs or memory than there are: `sinfo -o '%P %D %c %m %G'` lists them"
    return SubmitError(cause, key=key, remedy=remedy)


def _first_cause(stderr: str) -> str:
    lines = [re.sub(r"^(sbatch: )?((error|fatal): )?", "", line).strip() for line in stderr.splitlines()]
    lines = [line for line in lines if line and not line.startswith("Try ")]
    # "Batch job submission failed: ..." repeats what a line before it says with the value in it.
    return lines[0] if lines else ""


def _nearest_partition(named: str) -> str:
    try:
        done = subprocess.run(
            ["sinfo", "--noheader", "--format=%R"], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    names = sorted(set(done.stdout.split()))
    near = difflib.get_close_matches(named, names, n=1)
    return (f"did you mean {near[0]!r}? " if near else "") + f"partitions are {', '.join(names[:12])}"


def environment_for_sbatch(environment: Mapping[str, str], script: str) -> dict[str, str]:
    """Without the shape of an allocation that this process may be in, and without what the script says.

    A variable SBATCH_PARTITION would win over the script's --partition without a word.
    """
    said = _options_said(script)
    return {
        name: value
        for name, value in environment.items()
        if (not name.startswith("SLURM_") or name in _KEPT) and _option_of(name) not in said
    }


def said_environment(script: str, environment: Mapping[str, str] | None = None) -> list[str]:
    """A line for each SBATCH_ variable: whether it counts."""
    environment = os.environ if environment is None else environment
    said = _options_said(script)
    return [
        f"{name} is set, and does not count: the recipe says --{option}"
        if option in said
        else f"{name}={value} counts for this job, as --{option}"
        for name, value in sorted(environment.items())
        if (option := _option_of(name)) is not None
    ]


_OTHER_NAMES = {"timelimit": "time", "no-requeue": "requeue", "jobid": "job-id", "mem-per-node": "mem"}


def _option_of(variable: str) -> str | None:
    """SBATCH_PARTITION is --partition; None for a variable that is none of sbatch's."""
    if not variable.startswith("SBATCH_"):
        return None
    name = variable.removeprefix("SBATCH_").lower().replace("_", "-")
    return _OTHER_NAMES.get(name, name)


def _options_said(script: str) -> set[str]:
    return set(re.findall(r'^#SBATCH "?--([a-z-]+)', script, re.MULTILINE))
