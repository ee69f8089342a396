"""RUN/jobs.jsonl: the scheduler's jobs that train a run, a line when each is submitted, begins and ends.

Torch-free.
"""

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from launcher import files
from launcher.json_text import dump_json, load_json

JOBS = "jobs.jsonl"


def record_job(run_url: str, event: str, job: str, fields: Mapping[str, object]) -> None:
    """Append a line. Does nothing for a remote run: no scheduler's job has one."""
    local = files.local_path(run_url)
    if local is None or not local.is_dir():
        return
    line = dump_json({"time": round(time.time(), 3), "event": event, "job": job, **fields}) + "\n"
    handle = os.open(local / JOBS, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(handle, line.encode())
        os.fsync(handle)
    finally:
        os.close(handle)


def read_jobs(run_url: str) -> list[dict[str, Any]]:
    """All lines; one that is damaged is passed over."""
    local = files.local_path(run_url)
    path = (local or Path("/nowhere")) / JOBS
    records = []
    for line in path.read_bytes().splitlines() if path.is_file() else []:
        try:
            record = load_json(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("job"), str) and "event" in record:
            records.append(record)
    return records


def last_job(records: Sequence[Mapping[str, Any]]) -> str | None:
    """The job that was submitted, or has begun, last."""
    nexts = [record.get("next") or record["job"] for record in records]
    return nexts[-1] if nexts else None


def replaced_job(records: Sequence[Mapping[str, Any]], job: str) -> str | None:
    """The job in whose place this one was submitted, by that one itself."""
    return next((record["job"] for record in records if record.get("next") == job), None)


def fruitless_jobs(records: Sequence[Mapping[str, Any]], saved: int) -> int:
    """How many jobs in a row have ended with no newer checkpoint than step `saved`, this one not counted."""
    count = 0
    for record in reversed([record for record in records if record["event"] == "end"]):
        if record.get("saved") != saved:
            break
        count += 1
    return count


def was_cancelled(records: Sequence[Mapping[str, Any]], job: str) -> bool:
    """Whether somebody has called `launch cancel` on this job, or on one that it has replaced."""
    chain: str | None = job
    while chain is not None:
        if any(record["event"] == "cancelled" and record["job"] == chain for record in records):
            return True
        chain = replaced_job(records, chain)
    return False
