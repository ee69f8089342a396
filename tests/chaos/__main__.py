"""`make chaos N=500 SEED=1`: hundreds of faults over all engines, and a report."""

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

FAULTS_PER_RUN, STEPS, STEP_S = 10, 240, 0.04


def main() -> int:
    """Chain after chain until there are N faults; exits with 1 if anything was violated."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos")
    parser.add_argument("--faults", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--minutes", type=float, help="start no new run after this time")
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
        start = partial(pool.submit, _chain, place, options.seed, references, servers)
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
    text = report_text(outcomes, options.seed, time.monotonic() - began)
    print(text)
    if options.report is not None:
        options.report.write_text(text)
    return 1 if any(outcome.violations for outcome in outcomes) else 0


def _reference(place: Path, engine: str) -> Path:
    return run_reference(place / f"reference-{engine}", engine, steps=STEPS)


def _chain(place: Path, seed: int, references: dict[str, Path], servers: list[str], chain: int) -> Outcome:
    """One chain; of one that was violated, its folder is kept in the working folder."""
    engine, folder = list(ENGINES)[chain % len(ENGINES)], place / f"chain-{chain}"
    faults = draw_faults(seed * 100_000 + chain, FAULTS_PER_RUN)
    # Each server is away for one chain in ten.
    server = servers[chain // 10 % 2] if chain % 5 == 3 else None
    outcome = run_chain(folder, engine, references[engine], faults, steps=STEPS, step_s=STEP_S, server=server)
    if outcome.violations:
        shutil.copytree(folder, Path(f"chaos-{seed}-{chain}"), dirs_exist_ok=True)
    shutil.rmtree(folder)
    return outcome


def report_text(outcomes: list[Outcome], seed: int, seconds: float) -> str:
    """A table of faults by kind, and every violation."""
    counts = collections.Counter(fault for outcome in outcomes for fault in outcome.faults)
    violations = [f"- {o.engine}: {text}" for o in outcomes for text in o.violations]
    engines = collections.Counter(outcome.engine for outcome in outcomes for _ in outcome.faults)
    return "\n".join(
        [
            "# Chaos",
            "",
            f"Written by `make chaos`: {sum(counts.values())} faults in {len(outcomes)} runs of 2 processes,"
            f" seed {seed}, {seconds / 60:.0f} min on {os.cpu_count()} cores, torch {torch.__version__}.",
            "After its faults, and a resume after each that ended it, every run has the losses, gradient",
            "norms, rates and tokens of a run without faults, to the last digit, at every step; after an",
            "update that was skipped (nan), its own. Ends, exit codes and saved steps are as documented.",
            "Where MLflow's server was dead or silent, a replay stores every step once.",
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
