"""What a batch job does after its nodes have ended."""

import pytest

from launcher.ending import ENDINGS, REACTIONS, Ending
from launcher.guard.cause import Cause
from launcher.guard.requeue import FRUITLESS_JOBS, RETRIES, Move, Scheduler, name_stop, next_move

RUNNING = Scheduler(running=True)
ENDS_IT = Scheduler(running=False, ending="CANCELLED")


def cause(ending: Ending) -> Cause:
    return Cause(ending=ending, message="SIGTERM after step 9, which is saved")


@pytest.mark.parametrize(
    ("scheduler", "ending"),
    [
        (RUNNING, "preempted"),  # a grace period: nothing else signals the nodes of a job that runs on
        (Scheduler(running=True, warned=True, seconds_left=170.0, warning_s=120.0), "time limit"),
        # PreemptParameters=send_user_signal: the same signal, long before the limit
        (Scheduler(running=True, warned=True, seconds_left=3600.0, warning_s=120.0), "preempted"),
        (Scheduler(running=True, warned=True, warning_s=120.0), "time limit"),
        (ENDS_IT, "stopped by user"),
        (Scheduler(running=False, ending="TIMEOUT"), "time limit"),
        (Scheduler(running=False, ending="PREEMPTED"), "preempted"),
        (Scheduler(running=False, requeued=True, ending="PENDING"), "preempted"),
        (Scheduler(running=False, ending="UNKNOWN"), "stopped by user"),
    ],
)
@pytest.mark.parametrize("said", ["stopped by signal", "preempted", "stopped by user"])
def test_a_stop_is_named_by_what_slurm_says_of_the_job(
    said: Ending, scheduler: Scheduler, ending: Ending
) -> None:
    named = name_stop(cause(said), scheduler)
    assert (named.ending, named.message) == (ending, cause(said).message)


@pytest.mark.parametrize("ending", [e for e in ENDINGS if REACTIONS[e].status != "KILLED"])
def test_no_other_ending_is_renamed(ending: Ending) -> None:
    assert name_stop(cause(ending), ENDS_IT) == cause(ending)


@pytest.mark.parametrize(
    ("ending", "tries", "fruitless", "lost", "move"),
    [
        ("done", 1, 0, [], "done"),
        ("bug", 1, 0, [], "final"),
        ("user error", 1, 0, [], "final"),
        ("out of memory", 1, 0, [], "final"),
        ("stopped by user", 1, 0, [], "final"),
        ("preempted", 1, 0, [], "queue again"),
        ("preempted", 1, FRUITLESS_JOBS, [], "queue again"),
        ("preempted", 1, 20, [], "final"),
        ("time limit", 1, 0, [], "queue again"),
        ("time limit", 1, FRUITLESS_JOBS, [], "final"),
        ("node lost", 1, 0, [], "again"),
        ("node lost", RETRIES, 0, [], "again"),
        ("node lost", RETRIES + 1, 0, [], "queue again"),
        ("node lost", RETRIES + 1, FRUITLESS_JOBS, [], "final"),
        ("node lost", 1, 0, ["n2"], "elsewhere"),
        ("hang", 1, 0, ["n2"], "elsewhere"),
        ("hang", 1, 0, [], "again"),
        ("storage", 1, 0, [], "queue again"),
    ],
)
def test_what_follows_while_slurm_lets_the_job_run(
    ending: Ending, tries: int, fruitless: int, lost: list[str], move: Move
) -> None:
    assert next_move(cause(ending), RUNNING, tries=tries, fruitless=fruitless, lost=lost) == move


@pytest.mark.parametrize("ending", [ending for ending in ENDINGS if ending != "done"])
def test_a_job_that_slurm_ends_is_never_started_again_by_its_script(ending: Ending) -> None:
    named = name_stop(cause(ending), ENDS_IT)
    move = next_move(named, ENDS_IT, tries=1, fruitless=0, lost=[])
    assert move in ("final", "leave")
    requeued = Scheduler(running=False, requeued=True)
    assert next_move(cause(ending), requeued, tries=1, fruitless=0, lost=[]) == "leave"


def test_a_job_that_slurm_has_preempted_for_good_is_continued_by_another_one() -> None:
    scheduler = Scheduler(running=False, ending="PREEMPTED")
    named = name_stop(cause("stopped by signal"), scheduler)
    assert next_move(named, scheduler, tries=1, fruitless=0, lost=[]) == "elsewhere"
