"""What the scheduler says of the job that trains a run."""

from dataclasses import dataclass
from typing import final

from cluster.slurm_job import JobState, ask_job
from launcher.run_jobs import last_job, read_jobs


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Queued:
    """The job that was submitted, or has begun, last."""

    job: str
    state: JobState


def ask_queue(run_url: str) -> Queued | None:
    """None for a run without a job. Raises QueueError where the scheduler does not answer."""
    job = last_job(read_jobs(run_url))
    return None if job is None else Queued(job=job, state=ask_job(job, run_url))
