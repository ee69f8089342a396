"""Jobs and names that the cluster room's tests share."""

import stat
import subprocess
from pathlib import Path

from cluster.job import Job

NASTY = 'it\'s 100% "$HOME" `id` \\ #1 !x & ; * ~ hetjob PackJob  é'
"""A name with all that bash, sbatch or both read a meaning into."""


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
