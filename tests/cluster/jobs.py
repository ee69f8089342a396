"""Jobs and names that the cluster room's tests share."""

import stat
import subprocess
from pathlib import Path

from cluster.job import Job

NASTY = 'it\'s 100% "$HOME" `id` \\ #1 !x & ; * ~ hetjob PackJob  é'
"""A name with all that bash, sbatch or both read a meaning into."""

SHOW = """import json, os, sys
if sys.argv[1:3] == ["-m", "supervisor"]:
    os.environ |= {"LAUNCH_PORT": "20001", "LAUNCH_MEETING": "24001.0.1", "LAUNCH_LOGS": os.environ["LOGS"]}
    os.execvp(sys.argv[4], sys.argv[4:])
print(json.dumps([sys.argv[1:], dict(os.environ), os.getcwd()]))
"""
"""A Python that shows how it was started, and stands for the supervisor too."""
FAKE_SRUN = """#!/bin/bash
while [[ $1 == -* ]]; do shift; done
SLURM_NODEID=1 SLURMD_NODENAME=n8 SLURM_LAUNCH_NODE_IPADDR=${SRUN_ADDRESS:-10.0.0.7} exec "$@"
"""


def run_script(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a batch script with a made-up srun, as the first node does; logs are in the folder."""
    write_program(folder / "bin" / "srun", FAKE_SRUN)
    env = {"PATH": f"{folder}/bin:/usr/bin:/bin", "SLURM_JOB_ID": "24001", "LOGS": str(folder)}
    return subprocess.run(["bash"], input=script, cwd=folder, env=env, capture_output=True, text=True)


def small_job(
    *,
    name: str = "quickstart",
    run_dir: str = "/runs/quickstart",
    cwd: str = "/home/me/project",
    nodes: int = 1,
    nproc_per_node: int = 2,
    python: str = "/opt/venv/bin/python",
    command: tuple[str, ...] = ("-m", "launcher.cli.rank", "--run-dir", "/runs/quickstart"),
    agent: tuple[str, ...] = ("-m", "torch.distributed.run"),
    env: dict[str, str] | None = None,
    supervisor: tuple[str, ...] = ("-m", "supervisor"),
    threads: int = 4,
) -> Job:
    """A job that differs from the usual one in what is given."""
    return Job(
        name=name,
        run_dir=run_dir,
        cwd=cwd,
        nodes=nodes,
        nproc_per_node=nproc_per_node,
        agent=agent,
        python=python,
        command=command,
        env=env or {},
        supervisor=supervisor,
        threads=threads,
    )


def write_program(path: Path, text: str) -> Path:
    """Write an executable script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def assert_bash_reads(script: str) -> None:
    """Have bash parse a script without running it."""
    done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
