"""Slurm: sbatch starts a script on the first node, srun a torchrun agent per node, each its processes."""

import os
import re
import subprocess
from pathlib import Path
from typing import final

from cluster.config import ClusterConfig
from cluster.job import Cluster, Job, JobError, SubmitError
from cluster.shell import agent_arguments, continued, lines_before_agent, quote, words

SUBMIT_TIMEOUT_S = 300
"""sbatch itself gives up earlier: after 10 s (MessageTimeout), or 60 s where there is no slurm.conf."""


@final
class SlurmCluster(Cluster):
    """Submits a job to the queue of the cluster that this host belongs to."""

    def __init__(self, config: ClusterConfig) -> None:
        self.config = config

    def threads(self, nproc_per_node: int) -> int:
        """An equal share of the CPUs asked for."""
        return max(1, (self.config.cpus_per_node or 0) // nproc_per_node)

    def render(self, job: Job) -> str:
        """A batch script; `sbatch` of the same file again resumes."""
        return "\n".join(
            [
                "#!/bin/bash",
                *(f"#SBATCH {option}" for option in self._options(job)),
                f"# {job.name}: {job.nodes} nodes x {job.nproc_per_node} processes. Submit again to resume.",
                "",
                *lines_before_agent(job, self.config),
                "",
                "# The first node is where agents meet. Jobs may share it, hence a port for each job,",
                "# below 32768, from where Linux hands out ports itself.",
                # No `| head -n 1`: with many nodes it closes the pipe early, a failure under pipefail.
                'nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")',
                "head=${nodes%%$'\\n'*}",
                "port=$((20000 + SLURM_JOB_ID % 12000))",
                "",
                self._srun(job),
                "",
            ]
        )

    def submit(self, script: Path) -> str:
        """Hand the script to sbatch. Raises SubmitError with sbatch's words."""
        path = Path(os.path.abspath(script))
        if f"#SBATCH {_output_option(str(path.parent))}" not in path.read_text().splitlines():
            raise ValueError(f"{path} was not rendered for the run folder it is in; render it again")
        # Slurm does not make the log's folder, and a job whose log cannot be opened fails without a word.
        (path.parent / "logs").mkdir(exist_ok=True)
        try:
            done = subprocess.run(
                ["sbatch", "--parsable", str(path)],
                env=_environment_for_sbatch(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=SUBMIT_TIMEOUT_S,
                check=False,
            )
        except FileNotFoundError:
            raise SubmitError("sbatch is not on PATH; submit from a host of a Slurm cluster") from None
        except subprocess.TimeoutExpired:
            raise SubmitError(
                f"sbatch gave no answer within {SUBMIT_TIMEOUT_S} s; `squeue --me` shows if it has the job"
            ) from None
        if done.returncode != 0:
            raise SubmitError(done.stderr.strip() or f"sbatch ended with {done.returncode} and said nothing")
        job_id = done.stdout.strip().split(";")[0]  # "ID;CLUSTER" where several clusters are known
        if not job_id.isdigit():
            raise SubmitError(f"sbatch answered {done.stdout!r}, which is not a job id")
        return job_id

    def _options(self, job: Job) -> list[str]:
        config = self.config
        asked = {
            "job-name": job.name,
            "nodes": job.nodes,
            "ntasks-per-node": 1,
            "cpus-per-task": self._cpus(job),
            "gpus-per-node": config.gpus_per_node,
            "time": config.time_min,
            "partition": config.partition,
            "account": config.account,
            "qos": config.qos,
            "chdir": job.cwd,
        }
        return [
            # Ours after the recipe's, because the last one counts.
            *(_sbatch_word(option) for option in config.sbatch_options),
            *(_sbatch_word(f"--{name}={value}") for name, value in asked.items() if value is not None),
            _output_option(job.run_dir),
            "--open-mode=append",
            "--requeue",
        ]

    def _srun(self, job: Job) -> str:
        # is_host is said, not left to torch's guess by host name: with aliases no agent would be it. Only a
        # task knows its node, hence a shell in each. local-addr, the address that ranks are given: the node's
        # Slurm name, which the others can resolve, where its FQDN may not be. read_timeout: the host's agent
        # may be late, importing torch from a cold network filesystem.
        in_task = (
            f'exec "$0" {words(job.agent)} --local-addr="$SLURMD_NODENAME"'
            ' --rdzv-conf="is_host=$((SLURM_NODEID == 0)),read_timeout=600" "$@"'
        )
        return continued(
            [
                # --export: SBATCH_EXPORT=NONE, which some sites set, would empty the ranks' environment.
                "srun --export=ALL --kill-on-bad-exit=1",
                # All of it again, because srun does not inherit --cpus-per-task (since 22.05).
                f"--nodes={job.nodes} --ntasks={job.nodes} --ntasks-per-node=1",
                f"--cpus-per-task={self._cpus(job)}",
                f"bash -c {quote(in_task)}",
                quote(job.python),
                " ".join(agent_arguments(job, str(job.nodes))),
                # The restart count: ranks of the last attempt may live on where a node was cut off.
                '--rdzv-backend=c10d --rdzv-endpoint="$head:$port"',
                '--rdzv-id="$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}"',
                words(job.command),
            ]
        )

    def _cpus(self, job: Job) -> int:
        # Slurm gives a task one CPU unless it is asked for more.
        return self.config.cpus_per_node or job.nproc_per_node


def _output_option(run_dir: str) -> str:
    if "://" in run_dir or not run_dir.startswith("/"):
        raise JobError(f"run_dir is {run_dir!r}; for Slurm it must be an absolute path that all nodes share")
    if "\\" in run_dir:
        raise JobError(f"run_dir is {run_dir!r}; sbatch cannot write a log to a path with a backslash")
    # In this option %j is the job's id; any other % is the folder's own.
    folder = os.path.normpath(run_dir).replace("%", "%%")
    return _sbatch_word(f"--output={folder}/logs/slurm-%j.log")


def _sbatch_word(word: str) -> str:
    """One argument as sbatch's own reader of #SBATCH lines takes it.

    It knows both quotes, and a backslash inside either; # starts a comment outside of them. It blanks the
    words "hetjob" and "packjob" wherever they are, unless a backslash splits them (src/sbatch/opt.c,
    _get_argument): --comment=my "hetjob" #1 becomes "--comment=my \\"het\\job\\" #1".
    """
    if re.fullmatch(r"[A-Za-z0-9_@%+=:,./\[\]-]*", word) and not re.search("(?i)hetjob|packjob", word):
        return word
    escaped = word.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + re.sub("(?i)(het|pack)(?=job)", r"\1\\", escaped) + '"'


def _environment_for_sbatch() -> dict[str, str]:
    """This process's environment, without the shape of a Slurm allocation that it may run in itself."""
    # sbatch reads SLURM_* as options of the new job; only these say which cluster to ask, and as whom.
    kept = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT")
    return {
        name: value for name, value in os.environ.items() if not name.startswith("SLURM_") or name in kept
    }
