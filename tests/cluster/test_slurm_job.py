"""What Slurm says of a job, read from its own words."""

import sys
import time
from pathlib import Path

import pytest

from cluster.slurm_job import Step


@pytest.mark.parametrize(
    ("reason", "state"),
    [
        (" DUE TO PREEMPTION", "PREEMPTED"),
        (" DUE TO TIME LIMIT", "TIMEOUT"),
        (" DUE TO NODE FAILURE, SEE SLURMCTLD LOG FOR DETAILS", "NODE_FAIL"),
        (" DUE TO JOB REQUEUE", "PENDING"),
        ("", ""),  # scancel
    ],
)
def test_slurmstepd_says_why_it_ends_the_tasks(tmp_path: Path, reason: str, state: str) -> None:
    step = Step([sys.executable, "-c", "import sys"], tmp_path, {})
    while step.code() is None:
        time.sleep(0.01)
    words = f"slurmstepd-n2: error: *** STEP 8.0 ON n2 CANCELLED AT 2026-11-30T07:08:33{reason} ***\n"
    (tmp_path / "node-n2.log").write_text(f"set up\n{words}")
    assert step.ended_as() == state
