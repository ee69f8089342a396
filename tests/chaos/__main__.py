"""`make chaos N=500 SEED=1`, `make chaos-storage`: hundreds of faults over all engines, and a report."""

import argparse
import collections
import itertools
import multiprocessing
import os
import shutil
import socket
import sys
import tempfile
import time
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from functools import partial
from pathlib import Path

import torch

from tests.chaos.driver import ENGINES, Outcome, draw_faults, run_chain, run_reference
from tests.chaos.remote import draw_remote_faults, run_remote_chain

FAULTS_PER_RUN, STEPS, STEP_S = 10, 240, 0.04


def main() -> int:
    """Chain after chain until there are N faults; exits with 1 if anything was violated."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos")
    parser.add_argument("--faults", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--minutes", type=float, help="start no new run after this time")
    parser.add_argument("--storage", action="store_true", help="faults of what is stored, not of processes")
    parser.add_argument("--report", type=Path)
    options = parser.parse_args()
    began, outcomes = time.monotonic(), list[Outcome]()
    context = multiprocessing.get_context("fork")
    with (
        tempfile.TemporaryDirectory(prefix="chaos-") as name,
        socket.create_server(("127.0.0.1", 0)) as silent,
        ProcessPoolExecutor(options.jobs, mp_context=context) as pool,
    ):
        place = Path(name)
        servers = ["http://127.0.0.1:9", f"http://127.0.0.1:{silent.getsockname()[1]}"]
        references = dict(zip(ENGINES, pool.map(partial(_reference, place), ENGINES), strict=True))
        kind = _storage_chain if options.storage else partial(_chain, servers=servers)
        start = partial(pool.submit, kind, place, options.seed, references)
        numbers = itertools.count()
        running = {start(next(numbers)) for _ in range(options.jobs)}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                outcome = future.result()
                outcomes.append(outcome)
                bad = "; ".join(outcome.violations) or "ok"
                seconds = time.monotonic() - began
                print(f"{seconds:6.0f} s  {outcome.engine}: {', '.join(outcome.faults)}: {bad}", flush=True)
                late = options.minutes is not None and seconds > 60 * options.minutes
                if not late and sum(len(outcome.faults) for outcome in outcomes) < options.faults:
                    running.add(start(next(numbers)))
    text = report_text(outcomes, options.seed, time.monotonic() - began, storage=options.storage)
    print(text)
    if options.report is not None:
        options.report.write_text(text)
    return 1 if any(outcome.violations for outcome in outcomes) else 0


def _reference(place: Path, engine: str) -> Path:
    return run_reference(place / f"reference-{engine}", engine, steps=STEPS)


def _chain(place: Path, seed: int, references: dict[str, Path], chain: int, servers: list[str]) -> Outcome:
    """One chain of faults of processes."""
    engine = list(ENGINES)[chain % len(ENGINES)]
    faults = draw_faults(seed * 100_000 + chain, FAULTS_PER_RUN)
    # Each server is away for one chain in ten.
    server = servers[chain // 10 % 2] if chain % 5 == 3 else None
    folder, reference = place / f"chain-{chain}", references[engine]
    return _keep(
        folder,
        run_chain(folder, engine, reference, faults, steps=STEPS, step_s=STEP_S, server=server),
    )


def _storage_chain(place: Path, seed: int, references: dict[str, Path], chain: int) -> Outcome:
    """One chain of faults of storage: of files, or (one in three) of an object store."""
    engine = list(ENGINES)[chain % len(ENGINES)]
    folder, reference = place / f"chain-{chain}", references[engine]
    if chain % 3 == 2:
        remote = draw_remote_faults(seed * 100_000 + chain, FAULTS_PER_RUN)
        return _keep(folder, run_remote_chain(folder, engine, reference, remote, steps=STEPS))
    faults = draw_faults(seed * 100_000 + chain, FAULTS_PER_RUN, storage=True)
    return _keep(folder, run_chain(folder, engine, reference, faults, steps=STEPS, step_s=STEP_S))


def _keep(folder: Path, outcome: Outcome) -> Outcome:
    """The folder of a chain that was violated is kept in the working folder, any other is removed."""
    if outcome.violations:
        shutil.copytree(folder, Path(f"chaos-{folder.name}"), dirs_exist_ok=True)
    shutil.rmtree(folder)
    return outcome


PROCESSES = """\
After its faults, and a resume after each that ended it, every run has the losses, gradient
norms, rates and tokens of a run without faults, to the last digit, at every step; after an
update that was skipped (nan), its own. Ends, exit codes and saved steps are as documented.
Where MLflow's server was dead or silent, a replay stores every step once."""
STORED = """\
Files are torn off at a random byte, or have one bit flipped, while nothing trains; the disk is
full for 25 steps; a whole attempt stands still on a file system without locks while another one
begins, and comes back; an object store (an S3 server on loopback) answers with 503 or 403, late,
or not at all, and processes are killed as a request reaches it. Every run ends, and has the
losses, gradient norms, rates and tokens of a run without faults, to the last digit. What was
said to be saved is there, or its file was the damaged one; lines are missing from the journal
only where it was damaged, or (object store) was killed before it was put there. No traceback is
printed for what an object store does, and no upload is left there in parts."""


def report_text(outcomes: list[Outcome], seed: int, seconds: float, *, storage: bool = False) -> str:
    """A table of faults by kind, and every violation."""
    counts = collections.Counter(fault for outcome in outcomes for fault in outcome.faults)
    violations = [f"- {o.engine}: {text}" for o in outcomes for text in o.violations]
    engines = collections.Counter(outcome.engine for outcome in outcomes for _ in outcome.faults)
    return "\n".join(
        [
            "# Chaos",
            "",
            f"Written by `make chaos{'-storage' * storage}`: {sum(counts.values())} faults in"
            f" {len(outcomes)} runs of 2 processes,"
            f" seed {seed}, {seconds / 60:.0f} min on {os.cpu_count()} cores, torch {torch.__version__}.",
            STORED if storage else PROCESSES,
            "",
            f"{len(violations)} violations.",
            *violations,
            "",
            "| engine | faults |",
            "|---|---|",
            *(f"| {engine} | {count} |" for engine, count in sorted(engines.items())),
            "",
            "| fault | times |",
            "|---|---|",
            *(f"| {fault} | {count} |" for fault, count in sorted(counts.items())),
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
