"""`launch RECIPE --nodes 2` on a real Slurm: freeze, submit, train on two nodes, submit again to resume."""

import os
import sys
from pathlib import Path

import pytest

from launcher.track.journal import read_journal, step_records
from tests.launch import LAUNCH
from tests.slurm_lab.lab import SlurmLab
from tests.small_run import RECIPE, losses, train_run

pytestmark = pytest.mark.slurm


def test_a_recipe_trains_on_two_nodes_and_resumes_by_submitting_the_same_file(
    slurm_lab: SlurmLab, tmp_path: Path
) -> None:
    recipe = RECIPE.replace("cluster: {type: local,", "cluster: {type: auto, cpus_per_node: 1,")
    (tmp_path / "small.yaml").write_text(recipe)
    run = tmp_path / "run with a space"
    words = (
        "small.yaml",
        "parallel.strategy=fsdp2",
        "model.dropout=0",
        "--nodes",
        "2",
        "--run-dir",
        str(run),
    )
    environment = {**os.environ, "PYTHONPATH": ":".join(filter(None, sys.path))}
    done = slurm_lab.run([*LAUNCH, *words], cwd=tmp_path, env=environment)
    job_id = next(line.removeprefix("job: ") for line in done.stdout.splitlines() if line.startswith("job: "))
    log = run / f"logs/slurm-{job_id}.log"
    assert slurm_lab.wait(job_id).state == "COMPLETED", log.read_text()
    records = step_records(run / "journal.jsonl")
    assert len(records) == 20
    alone = train_run(tmp_path / "alone", "model.dropout=0")
    assert losses(records) == pytest.approx(losses(alone), rel=1e-5)

    # As if the job had died while it saved the last checkpoint.
    (run / "checkpoints/step-0000000020/manifest.json").unlink()
    again = slurm_lab.run(["sbatch", "--parsable", str(run / "job.sh")], cwd=tmp_path, env=environment)
    assert slurm_lab.wait(again.stdout.strip()).state == "COMPLETED"
    starts = [r["from_step"] for r in read_journal(run / "journal.jsonl") if r["event"] == "begin"]
    assert starts == [0, 10]
    assert losses(step_records(run / "journal.jsonl")) == losses(records), "bit for bit"
