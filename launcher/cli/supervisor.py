"""What a batch job's script becomes: `python -m launcher.cli.supervisor --run-dir RUN -- srun ...`.

It starts an agent on each node, passes on the warning of the time limit, finds the one cause of an end, and
does what follows: nothing, another attempt in this job, this job queued again, or another job in its place.
"""

import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar, final

from cluster.job import SubmitError
from cluster.slurm_job import JobState, OwnJob, QueueError, Step, ask_job, kill_wait_s
from launcher import files
from launcher.checkpoint.catalog import find_newest
from launcher.cli.arguments import parse_supervised
from launcher.cli.echo import Echo
from launcher.cli.ended import cause_lines, read_recipe, tell
from launcher.cli.main import print_lines, print_problems
from launcher.cli.places import LOGS, REPLACED
from launcher.cli.problems import problem_lines
from launcher.cli.report import publish_report
from launcher.cli.tracking import settle_run
from launcher.ending import REACTIONS
from launcher.errors import Problem, UserError
from launcher.guard.agent_word import AgentWord, first_of, read_agent_words
from launcher.guard.cause import Cause
from launcher.guard.requeue import STOPPED, Move, Scheduler, name_stop, next_move
from launcher.guard.stop import STOP_SIGNALS
from launcher.network import free_port
from launcher.recipe.schema import Recipe
from launcher.run_folder import CONSOLE, RECIPE, SCRIPT, require_run
from launcher.run_jobs import fruitless_jobs, read_jobs, record_job, replaced_job, was_cancelled

Answer = TypeVar("Answer")
_POLL_S = 0.2
_ASK_AGAIN_S = 10.0
_BACK_OFF_S = 2.0
"""Before a second attempt in the job; four times as long before each further one."""


@final
@dataclass(slots=True)
class Asked:
    """Signals that this process was sent, by a handler that only notes them."""

    numbers: list[int] = field(default_factory=list)
    passed_on: bool = False

    def receive(self, number: int, _frame: object) -> None:
        """A signal handler."""
        self.numbers.append(number)

    @property
    def ending(self) -> bool:
        """Whether Slurm has begun to end the job: it sends SIGTERM to this process then, and only then."""
        return signal.SIGTERM in self.numbers


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What is supervised."""

    url: str
    folder: Path
    submission: str
    words: Sequence[str]
    """The srun, without where it logs to."""
    job: OwnJob
    hosts: Sequence[str]
    """Names of its nodes."""
    kill_wait_s: float
    """Between SIGTERM and SIGKILL to tasks."""
    warning_s: float
    """How long before its limit the job is warned."""
    recipe: Recipe | None
    """None where it cannot be read."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """One attempt."""

    cause: Cause
    begun: float
    logs: Path
    lost: Sequence[str]
    """Nodes that gave no answer, and whose tasks could not be ended."""
    state: str
    """What Slurm has said to its tasks that the job will be; empty if nothing."""


def main() -> int:
    """Train until the run is over, or another job continues it. Returns the exit code of the job."""
    options, words = parse_supervised(sys.argv[1:])
    run_url = files.absolute(options.run_dir)
    try:
        require_run(run_url)
        job, recipe = OwnJob(os.environ), read_recipe(files.join(run_url, RECIPE))
        run = Run(
            url=run_url,
            folder=Path(run_url),
            submission=options.submission,
            words=words,
            job=job,
            hosts=until_answered(job.hosts),
            kill_wait_s=kill_wait_s(),
            warning_s=float(recipe.cluster.warning_s) if recipe else 0.0,
            recipe=recipe,
        )
        require_no_other_job(run)
    except UserError as error:
        print_problems(error)
        return 2
    asked = Asked()
    for number in STOP_SIGNALS:
        signal.signal(number, asked.receive)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with Echo(run.folder / CONSOLE):
        return supervise(run, asked)


def require_no_other_job(run: Run) -> None:
    """Raise UserError where another job trains the run, or is about to."""
    records = read_jobs(run.url)
    replaced = replaced_job(records, run.job.id)
    ended = {record["job"] for record in records if record["event"] == "end"}
    for job in dict.fromkeys(record["job"] for record in reversed(records)):
        if job in (run.job.id, replaced):
            continue
        with contextlib.suppress(QueueError):  # the lock is asked next
            state = ask_job(job, run.url)
            if state.state == "COMPLETING" and job in ended:
                continue
            if not state.is_over and state.state != "PENDING":
                message = f"is being trained by job {job} on {state.nodes or 'its nodes'}"
                remedy = f"wait for it, or end it: scancel {job}"
                raise UserError(Problem(files.shortest(run.url), message, remedy))
        return


def supervise(run: Run, asked: Asked) -> int:
    """Attempt after attempt."""
    job, saved, tries, number = run.job, newest_step(run.url), 0, 0
    records = read_jobs(run.url)
    replaced = replaced_job(records, job.id)
    if was_cancelled(records, job.id):  # in the moment in which Slurm was queueing it again
        print_lines([f"launch: stopped by user: launch cancel {files.shortest(run.url)}"])
        return REACTIONS["stopped by user"].code
    record_job(run.url, "begin", job.id, {"restart": job.restarts, "host": socket.gethostname()})
    while True:
        number += 1
        ended = run_once(run, asked, number, replaced)
        state = until_answered(job.ask)
        state = replace(state, ending=state.ending or ended.state)
        scheduler = as_scheduler(state, asked, restarts=job.restarts, warning_s=run.warning_s)
        cause, before = name_stop(ended.cause, scheduler), saved
        records = read_jobs(run.url)
        if was_cancelled(records, job.id) and cause.ending in STOPPED:
            cause = replace(cause, ending="stopped by user")
        saved = newest_step(run.url)
        tries = 1 if saved > before else tries + 1
        fruitless = fruitless_jobs(records, saved)
        move = next_move(cause, scheduler, tries=tries, fruitless=fruitless, lost=ended.lost)
        # Warned of its limit, the job has no time for another attempt.
        move = "queue again" if move == "again" and asked.numbers else move
        print_lines(told_lines(run, ended, cause, move))
        # Written before anything is asked of Slurm, which may end this process at once.
        settle_run(run.url, cause.ending, cause.message, since=ended.begun, final=move == "final", job=job.id)
        tell(
            cause,
            run.url,
            run.recipe.guard.notify if run.recipe else None,
            again=move not in ("final", "done"),
        )
        if move == "done":
            publish_report(run.url, run.recipe)
        if move == "again":
            wait(_BACK_OFF_S * 4 ** (tries - 1), asked)
            if not asked.numbers:
                continue
            move = "leave" if asked.ending else "queue again"
        return finish(run, ended, cause, move, saved)


def run_once(run: Run, asked: Asked, number: int, replaced: str | None) -> Ended:
    """One srun, until all nodes have left word, or the rest of them is known to be unreachable."""
    logs = run.folder / "logs" / f"job-{run.job.name}.{number}"
    logs.mkdir(parents=True, exist_ok=True)
    variables = {
        LOGS: str(logs),
        "LAUNCH_PORT": str(free_port(int(run.job.id), run.job.restarts + number)),
        "LAUNCH_MEETING": f"{run.job.name}.{number}",
        **({} if replaced is None else {REPLACED: replaced}),
    }
    begun = time.time()
    step = Step(run.words, logs, variables)
    limit_s, num_hosts = run.kill_wait_s + 20.0, len(run.hosts)
    while (code := step.code()) is None:
        # When Slurm ends a job, the tasks have their own signal; a second one might meet a rank at its exit.
        if asked.numbers and not asked.passed_on and not asked.ending:
            asked.passed_on = True
            step.ask_to_stop()
        first = first_of(words := read_agent_words(logs))
        if asked.ending and len(words) == num_hosts:
            break  # srun takes its time then, and there may be little
        failed = first is not None and first.ending not in (*STOPPED, "done")
        if failed and time.time() > words[0].time + limit_s:
            step.kill()
            break
        time.sleep(_POLL_S)
    if asked.ending:
        wait_for_words(logs, num_hosts, limit_s)
    words = read_agent_words(logs)
    heard = {word.host.partition(".")[0] for word in words}
    lost = [host for host in run.hosts if host.partition(".")[0] not in heard] if code is None else []
    return Ended(
        cause=find_first(words, logs, code, lost), begun=begun, logs=logs, lost=lost, state=step.ended_as()
    )


def wait_for_words(logs: Path, num_hosts: int, limit_s: float) -> None:
    """Where Slurm ends the job, srun ends before its tasks, which are still saving."""
    deadline = time.monotonic() + limit_s
    while len(read_agent_words(logs)) < num_hosts and time.monotonic() < deadline:
        time.sleep(_POLL_S)


def find_first(words: Sequence[AgentWord], logs: Path, code: int | None, lost: Sequence[str]) -> Cause:
    """The one cause of an attempt's end."""
    failed = sorted(logs.glob("setup-*"))
    if failed:
        host = failed[0].name.removeprefix("setup-")
        return Cause(
            ending="user error", message=f"{host}: failed before training: {failed[0].read_text().strip()}"
        )
    cause = first_of(words)
    if lost:
        named = ", ".join(lost)
        message = f"no answer from {named}: switched off, or cut off from the others"
        return Cause(ending="node lost", message=message, where=cause.where if cause else "")
    if cause is not None and not (cause.ending == "done" and code):
        return cause
    lines = (logs / "srun.log").read_text(errors="replace").strip().splitlines()
    reason = next((line for line in lines if "error" in line), f"srun ended with {code}")
    return Cause(ending="node lost", message=reason.removeprefix("srun: error: "))


def until_answered(question: Callable[[], Answer]) -> Answer:
    """What Slurm says. It may be away for a while: not to be asked is not to be gone."""
    while True:
        try:
            return question()
        except QueueError as error:
            print_lines([f"launch: Slurm gives no answer: {error}; asking again in {_ASK_AGAIN_S:.0f} s"])
            time.sleep(_ASK_AGAIN_S)


def as_scheduler(state: JobState, asked: Asked, *, restarts: int, warning_s: float) -> Scheduler:
    """The part of a job's state that decides."""
    return Scheduler(
        running=state.state in ("RUNNING", "SUSPENDED") and state.restarts == restarts,
        requeued=state.restarts != restarts,
        ending=state.ending or state.state,
        warned=signal.SIGUSR1 in asked.numbers,
        seconds_left=state.seconds_left,
        warning_s=warning_s,
    )


def finish(run: Run, ended: Ended, cause: Cause, move: Move, saved: int) -> int:
    """Do what follows; returns the exit code of this job."""
    fields: dict[str, object] = {
        "restart": run.job.restarts,
        "ending": cause.ending,
        "reason": cause.message,
        "saved": saved,
        "move": move,
    }
    if move == "queue again":
        record_job(run.url, "end", run.job.id, fields)
        try:
            run.job.requeue()
        except QueueError as error:
            print_lines([f"launch: Slurm does not queue this job again ({error}); submitting another one"])
            move = "elsewhere"
        else:
            wait(run.kill_wait_s + 60.0, Asked())  # Slurm ends this process
            return REACTIONS[cause.ending].code
    if move == "elsewhere":
        try:
            with contextlib.suppress(QueueError):
                run.job.keep_from_requeue()
            script = run.folder / run.submission / SCRIPT
            other = run.job.resubmit(script, wait_for_this=not ended.lost, exclude=ended.lost)
        except SubmitError as error:
            print_lines(problem_lines(f"sbatch: {error}"))
            print_lines([f"  to continue: launch resume {files.shortest(run.url)}"])
        else:
            fields["next"] = other
            print_lines([f"launch: job {other} continues it"])
    record_job(run.url, "end", run.job.id, {**fields, "move": move})
    return REACTIONS[cause.ending].code


def newest_step(run_url: str) -> int:
    """Step of the newest complete checkpoint; 0 without one."""
    saved, _ = find_newest(run_url, verify=False)
    return saved.step if saved else 0


def told_lines(run: Run, ended: Ended, cause: Cause, move: Move) -> list[str]:
    """What is printed of an attempt's end."""
    follows: dict[Move, str] = {
        "again": "starting again in this job, from the newest checkpoint",
        "queue again": "asking Slurm to queue this job again",
        "elsewhere": "submitting another job" + (f" without {', '.join(ended.lost)}" * bool(ended.lost)),
        "leave": "Slurm has queued this job again" if cause.ending == "preempted" else "",
    }
    failed = REACTIONS[cause.ending].status == "FAILED"
    logs = f"logs: {files.shortest(str(ended.logs))}" if failed else ""
    return cause_lines(cause, run.url, logs=logs, follows=follows.get(move, ""))


def wait(seconds: float, asked: Asked) -> None:
    """Until then, or a signal."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not asked.numbers:
        time.sleep(_POLL_S)


if __name__ == "__main__":
    sys.exit(main())
