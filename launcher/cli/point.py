"""What a task of a sweep's job array runs: `python -m launcher.cli.point --points FILE --index I`."""

import os
import sys
from dataclasses import replace
from pathlib import Path

from cluster.slurm_job import OwnJob, QueueError
from launcher.cli.arguments import parse_point
from launcher.cli.main import print_lines, print_problems
from launcher.cli.tracking import find_target
from launcher.ending import REACTIONS, EndingError, classify
from launcher.errors import UserError
from launcher.guard.stop import StopRequests
from launcher.json_text import load_json
from launcher.recipe.compile import compile_recipe
from launcher.sweep.results import is_finished
from launcher.sweep.worker import Task, one_process, train_point


def main() -> int:
    """Train one point; queue it again where Slurm has asked it to stop and lets the job run."""
    options = parse_point(sys.argv[1:])
    record = load_json(Path(options.points).read_bytes().splitlines()[options.index])
    folder, stop = Path(record["folder"]), StopRequests()
    if is_finished(folder):
        print(f"{folder} is done")
        return 0
    stop.listen()
    mlflow = compile_recipe(record["recipe"], str(folder)).recipe.track.mlflow
    target = replace(find_target(mlflow), parent_run_id=record["parent_run_id"]) if mlflow.enabled else None
    try:
        world = one_process(0, int(os.environ.get("OMP_NUM_THREADS", "1")))
        train_point(Task(run_dir=folder, recipe=record["recipe"], mlflow=target), world, stop)
    except UserError as error:
        print_problems(error)
        return 2
    except EndingError as error:
        print_lines([f"launch: {error.ending}: {error}"])
        if stop.asked and "SLURM_JOB_ID" in os.environ:
            _queue_again(OwnJob(os.environ))
        return REACTIONS[classify(error)].code
    return 0


def _queue_again(job: OwnJob) -> None:
    """Where the job runs on as far as Slurm knows, it was preempted or warned of its limit, not cancelled."""
    try:
        state = job.ask()
        if state.state == "RUNNING" and state.restarts == job.restarts:
            job.requeue()
    except QueueError as error:
        print_lines([f"launch: not queued again: {error}"])


if __name__ == "__main__":
    sys.exit(main())
