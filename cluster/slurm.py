"""Slurm: sbatch starts a script on the first node; its supervisor starts an agent per node by srun."""

import os
import re
from pathlib import Path
from typing import final

from cluster.config import ClusterConfig
from cluster.job import Cluster, Job, JobError
from cluster.sbatch import submit_script, try_script
from cluster.shell import agent_arguments, continued, environment_lines, lines_before_agent, quote, words


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
                """trap 'echo "launch: set-up failed: $BASH_COMMAND" >&2' ERR""",
                *lines_before_agent(job, self.config),
                "",
                "# It starts the rest, once or, where that may help, again; and asks Slurm for another job.",
                continued([f"exec {quote(job.python)} {words(job.supervisor)} --", *self._srun(job)]),
                "",
            ]
        )

    def render_array(self, job: Job, count: int, at_once: int) -> str:
        """A script whose tasks run the job's command with --index 0, 1, ...; `at_once` of them at a time."""
        limit = f"--array=0-{count - 1}%{at_once}"
        options = [option for option in self._options(job) if "/logs/slurm-%j.log" not in option]
        return "\n".join(
            [
                "#!/bin/bash",
                *(f"#SBATCH {option}" for option in [*options, limit]),
                f"#SBATCH {output_option(job.run_dir, '%A_%a')}",
                f"# {job.name}: {count} points. Submit again to train those that have not finished.",
                "",
                *lines_before_agent(job, self.config),
                "",
                f'exec {quote(job.python)} {words(job.command)} --index "$SLURM_ARRAY_TASK_ID"',
                "",
            ]
        )

    def check(self, script: str) -> list[str]:
        """Ask sbatch whether it would take the script. Raises SubmitError; returns what to know about it."""
        return try_script(script)

    def submit(self, script: Path) -> str:
        """Hand the script to sbatch. Raises SubmitError with sbatch's words."""
        path = Path(os.path.abspath(script))
        options = [line.removeprefix("#SBATCH ") for line in path.read_text().splitlines()]
        # A resume's script is in RUN/attempts/ID.
        places = (path.parent, *path.parents[2:3])
        folders = {output_option(str(place), job): place for place in places for job in ("%j", "%A_%a")}
        folder = next((folders[option] for option in options if option in folders), None)
        if folder is None:
            raise ValueError(f"{path} was not rendered for the run folder it is in; render it again")
        # Slurm does not make the log's folder, and a job whose log cannot be opened fails without a word.
        (folder / "logs").mkdir(exist_ok=True)
        return submit_script(path)

    def _options(self, job: Job) -> list[str]:
        config = self.config
        asked = {
            "job-name": job.name,
            "nodes": job.nodes,
            "ntasks-per-node": 1,
            "cpus-per-task": self._cpus(job),
            **self._gpus(),
            "mem": config.memory,
            "time": config.time_min,
            "partition": config.partition,
            "account": config.account,
            "qos": config.qos,
            "exclude": config.exclude,
            "chdir": job.cwd,
        }
        return [
            # Ours after the recipe's, because the last one counts.
            *(sbatch_word(option) for option in config.sbatch_options),
            *(sbatch_word(f"--{name}={value}") for name, value in asked.items() if value is not None),
            output_option(job.run_dir),
            "--open-mode=append",
            "--requeue",
            # To the script alone: ranks that have not learned to listen yet would die of it.
            f"--signal=B:USR1@{config.warning_s}",
        ]

    def _gpus(self) -> dict[str, str | None]:
        count, kind = self.config.gpus_per_node, self.config.gpu_type
        if count is None:
            return {}
        typed = f"{kind}:{count}" if kind else str(count)
        return {"gres": f"gpu:{typed}"} if self.config.gpus_as == "gres" else {"gpus-per-node": typed}

    def _srun(self, job: Job) -> list[str]:
        container = self.config.container
        mounts = [] if container is None else [job.run_dir, job.cwd, *container.mounts]
        pyxis = (
            [f"--container-image={container.image}", f"--container-mounts={','.join(mounts)}"]
            if container is not None and container.runtime == "pyxis"
            else []
        )
        options = [*self.config.srun_options, *pyxis]
        return [
            # --export: SBATCH_EXPORT=NONE, which some sites set, would empty the ranks' environment.
            "srun --export=ALL --kill-on-bad-exit=1",
            # All of it again, because srun does not inherit --cpus-per-task (since 22.05).
            f"--nodes={job.nodes} --ntasks={job.nodes} --ntasks-per-node=1",
            f"--cpus-per-task={self._cpus(job)}",
            *([words(options)] if options else []),
            f"bash -c {quote(self._in_task(job))}",
            quote(job.python),
            " ".join(agent_arguments(job, str(job.nodes))),
            "--rdzv-backend=c10d",
            words(job.command),
        ]

    def _in_task(self, job: Job) -> str:
        """What bash does on each node: set-up, then it becomes the agent. `$0` is the interpreter."""
        # is_host is said, not left to torch's guess by host name: with aliases no agent would be it. Nodes
        # meet at the address that srun is reached at, because names need not resolve; the supervisor is on
        # the same node, and has found a free port. read_timeout: the host's agent may be late, importing
        # torch from a cold network filesystem. The trap leaves word where the set-up fails; a signal is not
        # its failure.
        failed = (
            'code=$?; if [ $code -lt 128 ]; then echo "$BASH_COMMAND: ended with $code"'
            ' >"$LAUNCH_LOGS/setup-$SLURMD_NODENAME"; fi'
        )
        agent = (
            f'exec {self._inside(job)}"$0" {words(job.agent)} --rdzv-endpoint="$host:$LAUNCH_PORT"'
            ' --rdzv-id="$LAUNCH_MEETING" --rdzv-conf="is_host=$((SLURM_NODEID == 0)),read_timeout=600" "$@"'
        )
        return "\n".join(
            [
                "set -eo pipefail",
                f"trap {quote(failed)} EXIT",
                f"cd {quote(job.cwd)}",
                *self.config.setup,
                *environment_lines(job, self.config),
                "host=$SLURM_LAUNCH_NODE_IPADDR",
                'case $host in *:*) host="[$host]";; esac',
                agent,
            ]
        )

    def _inside(self, job: Job) -> str:
        """What puts a command into the container, where srun does not."""
        container = self.config.container
        if container is None or container.runtime != "apptainer":
            return ""
        binds = [f"--bind={mount}" for mount in (job.run_dir, job.cwd, *container.mounts)]
        gpus = ["--nv"] if self.config.gpus_per_node else []
        return words(["apptainer", "exec", *gpus, *binds, f"--pwd={job.cwd}", container.image]) + " "

    def _cpus(self, job: Job) -> int:
        # Slurm gives a task one CPU unless it is asked for more.
        return self.config.cpus_per_node or job.nproc_per_node


def output_option(run_dir: str, job: str = "%j") -> str:
    """Where the log of a run's jobs goes, as a word of an #SBATCH line. Raises JobError where it cannot."""
    if "://" in run_dir or not run_dir.startswith("/"):
        raise JobError(f"run_dir is {run_dir!r}; for Slurm it must be an absolute path that all nodes share")
    if "\\" in run_dir:
        raise JobError(f"run_dir is {run_dir!r}; sbatch cannot write a log to a path with a backslash")
    # In this option %j is the job's id; any other % is the folder's own.
    folder = os.path.normpath(run_dir).replace("%", "%%")
    return sbatch_word(f"--output={folder}/logs/slurm-{job}.log")


def sbatch_word(word: str) -> str:
    """One argument as sbatch's own reader of #SBATCH lines takes it.

    It knows both quotes, and a backslash inside either; # starts a comment outside of them. It blanks the
    words "hetjob" and "packjob" wherever they are, unless a backslash splits them (src/sbatch/opt.c,
    _get_argument): --comment=my "hetjob" #1 becomes "--comment=my \\"het\\job\\" #1".
    """
    if re.fullmatch(r"[A-Za-z0-9_@%+=:,./\[\]-]*", word) and not re.search("(?i)hetjob|packjob", word):
        return word
    escaped = word.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + re.sub("(?i)(het|pack)(?=job)", r"\1\\", escaped) + '"'
