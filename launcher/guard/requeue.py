"""What a batch job does after its nodes have ended: pure rules, for any scheduler. Torch-free.

The table is documented in docs/slurm.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final

from launcher.ending import REACTIONS, Ending
from launcher.guard.cause import STOPS, Cause

Move = Literal["done", "final", "again", "queue again", "elsewhere", "leave"]
"""`again`: in the same job; `elsewhere`: as another job, without the nodes that are lost; `leave`: the
scheduler has decided already."""
STOPPED: tuple[Ending, ...] = (*STOPS, "preempted", "stopped by user")
RETRIES = 3
"""Attempts in one job after one that they may fix, without a checkpoint in between."""
FRUITLESS_JOBS = 3
FRUITLESS_PREEMPTIONS = 20
"""Jobs without a new checkpoint after which a run is not queued again."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduler:
    """What the scheduler says of the job."""

    running: bool
    """Whether it lets the job continue as far as it knows; false while it ends it."""
    requeued: bool = False
    """Whether it has queued the job again itself."""
    ending: str = ""
    """In Slurm's words, of a job that it ends."""
    warned: bool = False
    """Whether it has warned of the time limit."""
    seconds_left: float | None = None
    """Until the time limit."""
    warning_s: float = 0.0
    """How long before it the job is warned; Slurm may be up to `_EARLY_S` early."""


def name_stop(cause: Cause, scheduler: Scheduler) -> Cause:
    """A stop request as what it was: ranks and agents know only that they were sent a signal."""
    if cause.ending not in STOPPED:
        return cause
    message = cause.message
    if scheduler.running:
        left = scheduler.seconds_left
        late = scheduler.warned and (left is None or left < scheduler.warning_s + _EARLY_S)
        ending: Ending = "time limit" if late or cause.ending == "time limit" else "preempted"
    elif scheduler.requeued or scheduler.ending in ("PREEMPTED", "PENDING", "REQUEUED"):
        ending = "preempted"
    elif scheduler.ending == "TIMEOUT":
        ending = "time limit"
    else:
        ending = "stopped by user"
    return Cause(ending=ending, message=message, where=cause.where)


_EARLY_S = 60.0
"""`man sbatch`, --signal: "may be sent up to 60 seconds earlier than specified"."""


def next_move(cause: Cause, scheduler: Scheduler, *, tries: int, fruitless: int, lost: Sequence[str]) -> Move:
    """What follows. `tries`: attempts of this job in a row that saved nothing; `fruitless`: such jobs."""
    reaction = REACTIONS[cause.ending]
    if cause.ending == "done":
        return "done"
    if scheduler.requeued:
        return "leave"
    if not (reaction.retry or reaction.requeue):
        return "final"
    limit = FRUITLESS_PREEMPTIONS if cause.ending == "preempted" else FRUITLESS_JOBS
    if fruitless >= limit:
        return "final"
    if not scheduler.running:
        # A job that Slurm ends for good: only another one can continue.
        return "elsewhere" if cause.ending in ("preempted", "time limit") else "leave"
    if lost:
        return "elsewhere"
    if reaction.retry and tries <= RETRIES:
        return "again"
    return "queue again" if reaction.requeue else "final"
