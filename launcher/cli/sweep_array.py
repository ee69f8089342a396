"""`launch sweep --cluster slurm`: the points of a sweep as one job array."""

import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from cluster.config import ClusterConfig
from cluster.job import Job, JobError, SubmitError
from cluster.slurm import SlurmCluster
from launcher import files
from launcher.cli.arguments import show_hints
from launcher.errors import Problem, UserError
from launcher.json_text import dump_json
from launcher.recipe.compile import dump_recipe
from launcher.sweep.grid import SweepPoint


def submit_array(
    name: str,
    points: Sequence[SweepPoint],
    out: Path,
    config: ClusterConfig,
    env: Mapping[str, str],
    *,
    at_once: int,
    parent_run_id: str | None,
) -> str:
    """Freeze the points in the sweep's folder and submit a task for each; returns the array's id."""
    when = time.strftime("%Y%m%d-%H%M%S")
    listed = out / f"points-{when}.jsonl"
    job = Job(
        name=name,
        run_dir=str(out),
        cwd=str(Path.cwd()),
        nodes=1,
        nproc_per_node=1,
        python=sys.executable,
        agent=(),
        command=("-m", "launcher.cli.point", "--points", str(listed)),
        env=env,
        threads=SlurmCluster(config).threads(1),
    )
    cluster = SlurmCluster(config)
    try:
        script = cluster.render_array(job, len(points), at_once)
        show_hints(Problem("sbatch", line) for line in cluster.check(script))
    except JobError as error:
        raise UserError(Problem(error.key or "job", str(error))) from None
    except SubmitError as error:
        raise UserError(Problem(error.key or "sbatch", str(error), error.remedy)) from None
    records = [
        {
            "folder": str(out / point.name),
            "recipe": dump_recipe(point.recipe),
            "parent_run_id": parent_run_id,
        }
        for point in points
    ]
    files.write_text(str(listed), "".join(dump_json(record) + "\n" for record in records))
    path = out / f"array-{when}.sh"
    files.write_text(str(path), script)
    try:
        return cluster.submit(path)
    except SubmitError as error:
        for left in (listed, path):
            left.unlink()
        raise UserError(Problem(error.key or "sbatch", str(error), error.remedy)) from None


def array_lines(job: str, count: int, at_once: int, out: Path, command: Sequence[str]) -> list[str]:
    """What was submitted, and how to see the results."""
    again = shlex.join(["launch", "sweep", *command])
    return [
        f"job array {job}: {count} points, at most {at_once} at once",
        f"logs: {files.shortest(str(out))}/logs/slurm-{job}_*.log",
        f"table, also before all are done: {again} --table",
        f"again what has not finished: {again}",
    ]
