"""Runs of two nodes on the lab: how they are submitted, followed, and compared with one that nothing ends."""

import functools
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.track.journal import read_journal, step_records
from tests.launch import LAUNCH
from tests.slurm_lab.lab import SlurmLab
from tests.small_run import RECIPE, losses, train_run

STEPS = 600
OVERRIDES = (
    f"train.steps={STEPS}",
    "parallel.strategy=ddp",
    "model.dropout=0",
    "train.validate_every=null",
    "checkpoint.every=40",
    "guard.stall_s=8",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabRun:
    """A run that was submitted."""

    lab: SlurmLab
    folder: Path
    first_job: str

    @property
    def job(self) -> str:
        """The job that continues it now."""
        nexts = [record["next"] for record in self.jobs() if record.get("next")]
        return nexts[-1] if nexts else self.first_job

    def jobs(self) -> list[dict[str, Any]]:
        """What the run folder says of its jobs."""
        from launcher.run_jobs import read_jobs

        return read_jobs(str(self.folder))

    def journal(self) -> list[dict[str, Any]]:
        path = self.folder / "journal.jsonl"
        return read_journal(path) if path.exists() else []

    def steps(self) -> int:
        """The last step in the journal."""
        return max((record["step"] for record in self.journal() if record["event"] == "step"), default=0)

    def log(self) -> str:
        """All jobs' logs, then the attempts' files: for a failing test."""
        paths = [
            *sorted(self.folder.glob("logs/slurm-*.log")),
            *sorted(self.folder.glob("logs/job-*/**/*.*")),
        ]
        return "\n".join(f"--- {path}\n{path.read_text(errors='replace')[-3000:]}" for path in paths)

    def wait(self, what: Callable[[], bool], timeout_s: float = 120.0) -> None:
        """Until something is so."""
        deadline = time.monotonic() + timeout_s
        while not what():
            if time.monotonic() > deadline:
                raise AssertionError(f"waited {timeout_s} s:\n{self.lab.show(self.job)}\n{self.log()}")
            time.sleep(0.1)

    def wait_for_step(self, step: int) -> None:
        """Until it has trained so far."""
        self.wait(lambda: self.steps() >= step)

    def wait_until_over(self, timeout_s: float = 180.0) -> str:
        """Until no job continues it; returns Slurm's word for the last one."""
        over = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED")

        def is_over() -> bool:
            job = self.job
            return self.lab.show(job).get("JobState") in over and self.job == job

        self.wait(is_over, timeout_s)
        return self.lab.show(self.job)["JobState"]

    def ends(self) -> list[str]:
        """The class of each end in the journal, corrections left out."""
        found: dict[int, str] = {}
        for record in self.journal():
            if record["event"] == "end":
                found[record["attempt"]] = record["class"]
        return [found[attempt] for attempt in sorted(found)]

    def starts(self) -> list[int]:
        """The step that each attempt has started from."""
        return [record["from_step"] for record in self.journal() if record["event"] == "begin"]

    def require_finished(self) -> None:
        """It has trained all steps, with the losses of a run that nothing ended."""
        records = step_records(self.folder / "journal.jsonl")
        assert sorted(records) == list(range(1, STEPS + 1)), self.log()
        assert losses(records) == reference(), "bit for bit"


@functools.cache
def reference() -> list[float]:
    """Losses of the same run on two ranks here, without Slurm."""
    with tempfile.TemporaryDirectory() as name:
        return losses(train_run(Path(name) / "run", *OVERRIDES, ranks=2))


def submit(
    lab: SlurmLab,
    folder: Path,
    *words: str,
    name: str = "run",
    env: Mapping[str, str] | None = None,
    cluster: str = "cpus_per_node: 1",
) -> LabRun:
    """`launch RECIPE --nodes 2` on the submit host."""
    folder.mkdir(exist_ok=True)
    recipe = RECIPE.replace("cluster: {type: local,", "cluster: {type: slurm, " + cluster + ",")
    (folder / "small.yaml").write_text(recipe)
    run = folder / name
    arguments = ["small.yaml", *OVERRIDES, "--nodes", "2", "--run-dir", str(run), *words]
    done = lab.run([*LAUNCH, *arguments], cwd=folder, env={**environment(), **(env or {})})
    found = re.search(r"^job: (\d+)$", done.stdout, re.MULTILINE)
    assert found, done.stdout
    return LabRun(lab=lab, folder=run, first_job=found[1])


def environment() -> dict[str, str]:
    """For commands on the submit host."""
    return {**os.environ, "PYTHONPATH": ":".join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
