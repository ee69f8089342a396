"""`make chaos N=500 SEED=1`: hundreds of faults over all engines, and a report."""

import argparse
import collections
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import torch

from tests.chaos.driver import ENGINES, Outcome, draw_faults, run_chain, run_reference

FAULTS_PER_RUN, STEPS, STEP_S = 10, 500, 0.02


def main() -> int:
    """Chain after chain until there are N faults; exits with 1 if anything was violated."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos")
    parser.add_argument("--faults", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--report", type=Path)
    options = parser.parse_args()
    began, outcomes, references = time.monotonic(), list[Outcome](), dict[str, Path]()
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        place = Path(name)
        for chain in range(10**6):
            done = sum(len(outcome.faults) for outcome in outcomes)
            if done >= options.faults:
                break
            engine = list(ENGINES)[chain % len(ENGINES)]
            if engine not in references:
                references[engine] = run_reference(place / f"reference-{engine}", engine, steps=STEPS)
            folder = place / f"chain-{chain}"
            count = min(FAULTS_PER_RUN, options.faults - done)
            faults = draw_faults(options.seed * 100_000 + chain, count)
            outcome = run_chain(folder, engine, references[engine], faults, steps=STEPS, step_s=STEP_S)
            outcomes.append(outcome)
            bad = "; ".join(outcome.violations) or "ok"
            seconds = time.monotonic() - began
            print(f"{seconds:6.0f} s  chain {chain} {engine}: {', '.join(outcome.faults)}: {bad}", flush=True)
            if outcome.violations:
                kept = Path(f"chaos-{options.seed}-{chain}")
                shutil.copytree(folder, kept, dirs_exist_ok=True)
                print(f"kept in {kept}", flush=True)
            else:
                shutil.rmtree(folder)
    text = report_text(outcomes, options.seed, time.monotonic() - began)
    print(text)
    if options.report is not None:
        options.report.write_text(text)
    return 1 if any(outcome.violations for outcome in outcomes) else 0


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
            "norms, rates and tokens of a run without faults, to the last digit, at every step.",
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
