"""What each node runs: `python -m launcher.cli.agent TORCHRUN-ARGUMENTS -m launcher.cli.rank --run-dir RUN`.

torchrun's elastic agent in this process, and around it: stop requests are passed on to the ranks; the first
cause of an end is found and printed once; the journal and MLflow say the same, and so does the exit code.
"""

import contextlib
import os
import shlex
import signal
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import final

from launcher import files
from launcher.checkpoint.catalog import list_steps
from launcher.cli.ended import cause_lines, read_recipe, tell
from launcher.cli.lasting import LastingOutput
from launcher.cli.main import print_lines
from launcher.cli.places import ENDS, LOGS, NODE_FOLDER, rank_arguments, recipe_url
from launcher.cli.report import publish_report
from launcher.cli.tracking import settle_lost, settle_run
from launcher.cli.watch import panel_below
from launcher.ending import REACTIONS, StorageError
from launcher.environment import ON_ONE_NODE, STORE_FILE
from launcher.errors import StoreError, UserError
from launcher.guard.agent_word import AgentWord, write_word
from launcher.guard.cause import Cause, Seen, find_cause
from launcher.guard.config import GuardConfig
from launcher.guard.elastic import NEW_STORES, Elastic, Meeting, MeetingError, count_memory_kills, log_to
from launcher.guard.judge import Limits, Verdict, limits_of
from launcher.guard.rank_end import RankEnd, read_ends
from launcher.guard.ranks import NodeRanks, StopWaiting
from launcher.guard.stop import STOP_SIGNALS
from launcher.guard.watchdog import Node, Watchdog, rank_variables
from launcher.network import interface_of
from launcher.plan.worlds import node_counts
from launcher.recipe.schema import Recipe
from launcher.run_folder import CONSOLE, JOURNAL, SCRIPT, open_mirror, read_secret
from launcher.spool import Spool
from launcher.track.settle import last_attempt

RETRIES = 3
"""New attempts after one that they may fix, without a checkpoint in between."""
OTHERS_S = 2.0
"""Ranks of other nodes have this long to leave their words in the run folder."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """An attempt as this agent has seen it."""

    cause: Cause
    begun: float
    """Seconds since the epoch."""
    words: str
    """Folder of the ranks' last words."""
    has_main: bool
    """Whether rank 0 was here: its agent writes and prints for all."""
    met: bool
    """Whether the nodes met, and can do so again."""


def main() -> int:
    """Train until the run ends in a way that another attempt here would not change."""
    # Otherwise torch ends the ranks at the signals that ask them to save; and after the failure of one rank,
    # the others have nothing left to save.
    os.environ |= {"PET_SIGNALS_TO_HANDLE": "SIGQUIT", "PET_SHUTDOWN_TIMEOUT": "10"}
    with Spool() as spool:
        try:
            return supervise(Elastic(sys.argv[1:], spool.folder), spool.folder)
        except StoreError as error:
            print_lines([f"launch: storage: {error.filename}: {error.strerror}"])
            return REACTIONS["storage"].code


def supervise(elastic: Elastic, folder: Path) -> int:
    """Listen to signals and train; returns the exit code. `folder` is private, and goes when this returns."""
    if elastic.one_node:
        os.environ |= {name: value for name, value in ON_ONE_NODE.items() if name not in os.environ}
    elif elastic.may_change:
        os.environ |= NEW_STORES
    elif "GLOO_SOCKET_IFNAME" not in os.environ and (found := interface_of(elastic.address)):
        os.environ["GLOO_SOCKET_IFNAME"] = found  # gloo would look up the node's name, which need not resolve
    # A batch job's script reads what its agents say, and does the rest: prints, settles, starts again.
    supervised = os.environ.get(LOGS)
    options = rank_arguments(elastic.rank_words)
    run_url, recipe = files.absolute(options.run_dir), read_recipe(recipe_url(options))
    guard = recipe.guard if recipe else GuardConfig()
    folder_of_run = files.local_path(run_url)
    console = folder_of_run / CONSOLE if folder_of_run and not supervised else None
    sys.stdout, sys.stderr = LastingOutput(sys.stdout, None), LastingOutput(sys.stderr, console)
    ranks = NodeRanks(folder)
    elastic.secret = None if elastic.one_node else read_secret(run_url)
    for number in STOP_SIGNALS:
        signal.signal(number, ranks.receive)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a closed terminal does not end training
    ranks.start()
    if supervised:
        return run_supervised(elastic, ranks, run_url, recipe, limits_of(guard), Path(supervised))
    say_where(elastic, run_url, options.submission)
    with panel_below(run_url, console if elastic.one_node else None):
        return attempts(elastic, ranks, run_url, recipe, guard)


def attempts(
    elastic: Elastic, ranks: NodeRanks, run_url: str, recipe: Recipe | None, guard: GuardConfig
) -> int:
    """One after the other, while another may help; returns the exit code."""
    saved, retries = steps_saved(run_url, []), 0
    while True:
        ended = run_attempt(elastic, ranks, run_url, recipe, limits_of(guard))
        cause, reaction, before = ended.cause, REACTIONS[ended.cause.ending], saved
        saved = steps_saved(run_url, before)
        retries = 0 if saved[-1:] != before[-1:] or cause.ending == "regrouped" else retries + 1
        may = elastic.one_node or elastic.may_change
        again = reaction.retry and ended.met and may and retries <= RETRIES and not ranks.signals
        if ended.has_main or cause.where or elastic.may_change:
            print_lines(told_lines(ended, run_url, again=again))
        if ended.has_main:
            settle_attempt(run_url, ended, final=not again)
            tell(cause, run_url, guard.notify, again=again)
            if cause.ending == "done":
                publish_report(run_url, recipe)
        if not again:
            elastic.close()
            if not ended.has_main and elastic.may_change:
                with contextlib.suppress(UserError, OSError, StorageError):  # another agent is at it
                    settle_lost(run_url)
            return reaction.code


def run_supervised(
    elastic: Elastic, ranks: NodeRanks, run_url: str, recipe: Recipe | None, limits: Limits, folder: Path
) -> int:
    """One attempt on a node of a batch job; leaves word of how it ended. Returns the exit code."""
    ended = run_attempt(elastic, ranks, run_url, recipe, limits, folder)
    with contextlib.suppress(OSError):  # a full disk: the exit code is left
        write_word(folder, AgentWord(host=socket.gethostname(), cause=ended.cause, time=time.time()))
    elastic.close()
    reaction = REACTIONS[ended.cause.ending]
    # A failure ends the other nodes at once; ranks that were asked to stop may still be saving there.
    return reaction.code if reaction.status == "FAILED" else 0


def run_attempt(
    elastic: Elastic,
    ranks: NodeRanks,
    run_url: str,
    recipe: Recipe | None,
    limits: Limits,
    supervised: Path | None = None,
) -> Ended:
    """Meet the other nodes, and run this node's ranks once. A supervisor gives the folder of their words."""
    begun, memory_kills = time.time(), count_memory_kills()
    ranks.forget()
    logs = str(supervised or files.join(run_url, "logs"))
    try:
        with ranks.waiting():
            meeting = elastic.meet(node_counts(recipe) if recipe and elastic.may_change else [elastic.most])
    except (StopWaiting, MeetingError) as error:
        cause = unmet_cause(error, ranks, run_url)
        return Ended(cause=cause, begun=begun, words=logs, has_main=elastic.one_node, met=False)
    words = logs if supervised else files.join(logs, meeting.name)
    local = prepare_ranks(elastic, meeting, words, ranks.folder)
    verdicts: list[str] = []

    def end_hang(verdict: Verdict) -> None:
        # Nodes that share no folder cannot compare what they see, and each knows only its own ranks.
        if verdict.rank is not None or local or elastic.one_node:
            verdicts.append(verdict.line)
            ranks.kill()

    node = Node(
        num_nodes=meeting.num_nodes if local else 1,
        per_node=elastic.per_node,
        host=socket.gethostname(),
        pids=ranks.pids,
        beacons=ranks.folder,
        logs=local or ranks.folder,
    )
    os.environ |= rank_variables(node.beacons, node.logs)
    with Watchdog(node, limits, end_hang):
        codes = elastic.run(meeting, ranks.regroup)
    if not elastic.one_node and (codes or elastic.error):
        time.sleep(OTHERS_S)
    seen = Seen(
        host=socket.gethostname(),
        exit_codes=codes,
        signals=tuple(ranks.signals),
        killed=ranks.killed,
        verdict=verdicts[0] if verdicts else "",
        out_of_memory=count_memory_kills() > memory_kills,
        scheduled="SLURM_JOB_ID" in os.environ,
        agent_error=elastic.error,
        regrouping=ranks.regrouping or elastic.is_regrouping(meeting),
    )
    cause = find_cause(read_words(words, ranks.folder / meeting.name), seen)
    if local is not None:
        remove_empty(local)
    is_main = meeting.node == 0
    return Ended(cause=cause, begun=begun, words=words, has_main=is_main, met=not elastic.error)


def prepare_ranks(elastic: Elastic, meeting: Meeting, words: str, folder: Path) -> Path | None:
    """Say what starts, and set the environment that the ranks inherit; returns the folder of their words."""
    if elastic.may_change and meeting.node == 0:
        idle = meeting.num_present - meeting.num_nodes
        rest = f", {idle} more stand{'s' * (idle == 1)} by" if idle else ""
        print_lines([f"launch: training on {meeting.num_nodes} of {elastic.most} nodes{rest}"])
    os.environ |= {NODE_FOLDER: str(folder), ENDS: words}
    if elastic.one_node:
        os.environ[STORE_FILE] = str(folder / f"store-{meeting.name}")
    (folder / meeting.name).mkdir(exist_ok=True)
    local = files.local_path(words)
    path = local / f"agent-{socket.gethostname()}.log" if local is not None else None
    try:
        if local is not None:
            local.mkdir(parents=True, exist_ok=True)
        log_to(path)
    except OSError as error:  # a full disk: there may be room when there is something to tell
        print_lines([f"launch: logs cannot be written: {error.strerror}"])
        log_to(None)
    return local


def read_words(words: str, folder: Path) -> list[RankEnd]:
    """Of all ranks that left some; in this node's folder, where the run's refused them. Earliest first."""
    found = list(read_ends(str(folder)))
    try:
        found += read_ends(words)
    except StoreError as error:
        print_lines([f"launch: {error.filename}: {error.strerror}"])
    return sorted(found, key=lambda end: end.time)


def unmet_cause(error: StopWaiting | MeetingError, ranks: NodeRanks, run_url: str) -> Cause:
    """Why there was no attempt on this node."""
    host, scheduled = socket.gethostname(), "SLURM_JOB_ID" in os.environ
    if isinstance(error, MeetingError) and error.closed:
        # Whoever has ended the job has written why.
        last = last_attempt(open_mirror(run_url, is_main=True).folder / JOURNAL)
        if last is not None and last.end is not None:
            return Cause(ending=last.end["class"], message=last.end.get("reason", ""))
    text = "" if isinstance(error, StopWaiting) else str(error)
    signals = tuple(ranks.signals)
    seen = Seen(host=host, exit_codes={}, signals=signals, began=False, agent_error=text, scheduled=scheduled)
    return find_cause([], seen)


def remove_empty(folder: Path) -> None:
    """Remove files in which nothing was written, and the folder if there is nothing to tell."""
    with contextlib.suppress(OSError):
        for path in (*folder.glob("stacks-*.txt"), *folder.glob("agent-*.log")):
            if path.stat().st_size == 0:
                path.unlink()
        folder.rmdir()


def settle_attempt(run_url: str, ended: Ended, *, final: bool) -> None:
    """Have journal and MLflow say how it ended; a store that refuses keeps what rank 0 wrote there."""
    try:
        settle_run(run_url, ended.cause.ending, ended.cause.message, since=ended.begun, final=final)
    except StoreError as error:
        print_lines([f"launch: the journal does not say how it ended: {error.filename}: {error.strerror}"])


def steps_saved(run_url: str, before: list[int]) -> list[int]:
    """Steps of the checkpoints; as before where the store does not say."""
    try:
        return list_steps(run_url)
    except StoreError:
        return before


def say_where(elastic: Elastic, run_url: str, submission: str) -> None:
    """Where nodes meet, and how to start the others."""
    if not elastic.may_change:
        return
    inside = [submission] if submission else []
    script = files.shortest(files.join(run_url, *inside, SCRIPT))
    count = str(elastic.most) if elastic.fewest == elastic.most else f"{elastic.fewest} to {elastic.most}"
    print_lines([f"launch: {count} nodes meet at {elastic.endpoint}; on each: bash {shlex.quote(script)}"])


def told_lines(ended: Ended, run_url: str, *, again: bool) -> list[str]:
    """What is printed of an attempt's end."""
    cause = ended.cause
    has_more = cause.where or cause.ending == "hang"
    logs = f"tracebacks: {files.shortest(ended.words)}" if has_more else ""
    follows = "starting again from the newest checkpoint" if again else ""
    return cause_lines(cause, run_url, logs=logs, follows=follows)


if __name__ == "__main__":
    sys.exit(main())
