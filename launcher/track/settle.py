"""The end of an attempt in the journal, written by whoever knows it best. Torch-free.

Rank 0 writes it when it can. An agent corrects it when another rank was the cause, or knows who sent a
signal. When rank 0 died without a word, whoever looks next writes it: the agent, the next attempt, a command.
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

from launcher.ending import REACTIONS, Ending
from launcher.track.journal import Journal, read_events
from launcher.track.tracking_uri import mask_secrets

_SILENT = "it ended without a word: killed, or its machine was lost"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LastAttempt:
    """The newest attempt in a journal."""

    attempt: int
    begun: float
    """Seconds since the epoch."""
    made_with: Mapping[str, str]
    """As in AttemptRecord; empty in journals of earlier versions."""
    end: dict[str, Any] | None
    """Its newest end line; None if it is being trained, or died without a word."""


def last_attempt(journal: Path) -> LastAttempt | None:
    """None where nothing has started yet."""
    return find_last(read_events(journal, "start", "end")) if journal.exists() else None


def find_last(records: Iterable[dict[str, Any]]) -> LastAttempt | None:
    """The newest attempt in a journal's records."""
    found: LastAttempt | None = None
    for record in records:
        if record["event"] == "start":
            made_with = record.get("made_with", {})
            attempt, begun = record["attempt"], record["time"]
            found = LastAttempt(attempt=attempt, begun=begun, made_with=made_with, end=None)
        elif record["event"] == "end" and found is not None:
            found = replace(found, end=record)
    return found


def state_text(records: Iterable[dict[str, Any]], holder: str | None) -> str:
    """How a run stands, by its journal and by who holds its lock."""
    last = find_last(records)
    if last is None:
        return "has not started" if holder is None else f"starting, {holder}"
    begun = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(last.begun))
    if holder is not None:
        return f"training, {holder}, attempt {last.attempt} since {begun}"
    if last.end is None:
        return f"attempt {last.attempt} of {begun} ended without a word"
    ended = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(last.end["time"]))
    reason = f": {last.end['reason']}" if "reason" in last.end else ""
    return f"{last.end['class']} (attempt {last.attempt}, {ended}){reason}"


def settle(journal: Path, ending: Ending, reason: str) -> bool:
    """Make the last line say how the newest attempt ended; returns whether a line was written.

    The caller holds the run's lock, or nobody else can write.
    """
    last = last_attempt(journal)
    if last is None or (last.end is not None and _says(last.end, ending, reason)):
        return False
    write_end(Journal(journal, last.attempt), ending, reason)
    return True


def _says(end: dict[str, Any], ending: Ending, reason: str) -> bool:
    if end["class"] != ending:
        return False
    # What a user can fix has the same words on every rank, but for the line of the recipe.
    return ending == "user error" or _one_line(reason) in end.get("reason", "")


def settle_silent(journal: Path) -> bool:
    """End the newest attempt in place of a process that can no longer do it."""
    last = last_attempt(journal)
    return last is not None and last.end is None and settle(journal, "node lost", _SILENT)


def write_end(journal: Journal, ending: Ending, reason: str) -> None:
    """Write the last line of an attempt, and close the journal."""
    record: dict[str, object] = {"status": REACTIONS[ending].status, "class": ending}
    if reason:
        record["reason"] = _one_line(reason)
    journal.write("end", record)
    journal.close()


def _one_line(reason: str) -> str:
    return mask_secrets(" ".join(reason.split())[:1000])
