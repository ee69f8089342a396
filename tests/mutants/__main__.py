"""The mutation gate, `python -m tests.mutants`: fails if a survivor has no reason in explained.toml."""

import argparse
import compileall
import contextlib
import os
import py_compile
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

# Once for all mutants, which are forked from here: what every test file would import first.
import deepspeed  # noqa: F401
import numpy as np  # noqa: F401
import pydantic  # noqa: F401
import pytest
import torch._dynamo
import torch.distributed.checkpoint
import torch.distributed.fsdp
import torch.distributed.tensor  # noqa: F401

from tests.mutants.mutate import Mutant
from tests.mutants.targets import drawn_mutants, explained_keys, nearest_tests, written_mutants

ROOT = Path(__file__).parents[2]
COPIED = ("launcher", "models", "cluster", "tests", "recipes", "docs", "benchmarks")
COPIED_FILES = ("pyproject.toml", "README.md", "Makefile")
OWN = ("tests", *COPIED[:3])
OPTIONS = ("-x", "-q", "-m", "not slow and not slurm", "-n", "0", "-p", "no:cacheprovider", "--no-header")

Verdict = Literal["killed", "survived", "timeout"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the tests said of a tree."""

    verdict: Verdict
    seconds: float
    said: str
    """The last line, or the first failure."""


class Slot:
    """A copy of the tree in which one mutant at a time is tested."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        for name in COPIED:
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in COPIED_FILES:
            shutil.copy(ROOT / name, folder / name)
        # by hash: two sources of equal size within a second must not be taken for one another
        compileall.compile_dir(folder, quiet=1, invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH)
        self.pid = 0
        self.mutant: Mutant | None = None
        self.began = 0.0
        self.limit_s = 0.0

    def start(self, mutant: Mutant | None, tests: tuple[str, ...], limit_s: float) -> None:
        """Test the tree with a mutant, or as it is."""
        self.mutant, self.began, self.limit_s = mutant, time.monotonic(), limit_s
        if mutant is not None:
            (self._folder / mutant.path).write_text(mutant.source)
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            _run_tests(self._folder, tests)

    def poll(self) -> Outcome | None:
        """The outcome, once there is one; the tree is as before then."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        seconds = time.monotonic() - self.began
        late = pid == 0 and seconds > self.limit_s
        if pid == 0 and not late:
            return None
        with contextlib.suppress(ProcessLookupError):  # ranks and programs that the tests left
            os.killpg(self.pid, signal.SIGKILL)
        if late:
            os.waitpid(self.pid, 0)
        if self.mutant is not None:
            shutil.copy(ROOT / self.mutant.path, self._folder / self.mutant.path)
        lines = (self._folder / "said").read_text(errors="replace").splitlines()
        failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))] or lines[-1:]
        verdict: Verdict = "timeout" if late else "survived" if status == 0 else "killed"
        return Outcome(verdict=verdict, seconds=seconds, said=failed[0] if failed else "")


def _run_tests(folder: Path, tests: tuple[str, ...]) -> None:
    """Become a test process of the tree in `folder`; never returns."""
    os.setpgid(0, 0)
    os.chdir(folder)
    handle = os.open("said", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.environ |= {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    sys.dont_write_bytecode = True
    sys.path[:] = [str(folder), *(entry for entry in sys.path if entry not in ("", str(ROOT)))]
    for name in [name for name in sys.modules if name.split(".")[0] in OWN]:
        del sys.modules[name]
    torch.set_num_threads(1)
    code = 1
    try:
        code = int(pytest.main([*OPTIONS, f"--basetemp={folder}/tmp", *tests]))
    finally:
        sys.stdout.flush()
        os._exit(code)


def run_all(work: list[tuple[Mutant | None, tuple[str, ...], float]], slots: list[Slot]) -> list[Outcome]:
    """Outcomes in the order of the work; prints each as it comes."""
    outcomes: dict[int, Outcome] = {}
    running: dict[int, Slot] = {}
    free, waiting = list(slots), list(enumerate(work))
    while waiting or running:
        while free and waiting:
            number, (mutant, tests, limit_s) = waiting.pop(0)
            running[number] = free.pop()
            running[number].start(mutant, tests, limit_s)
        time.sleep(0.05)
        for number, slot in list(running.items()):
            outcome = slot.poll()
            if outcome is not None:
                outcomes[number] = outcome
                free.append(running.pop(number))
                print(_line(slot.mutant, outcome), flush=True)
    return [outcomes[number] for number in range(len(work))]


def _line(mutant: Mutant | None, outcome: Outcome) -> str:
    if mutant is None:
        return f"unchanged {outcome.seconds:5.0f} s  {outcome.said}"
    place = f"{mutant.path}:{mutant.line}"
    return f"{outcome.verdict:9} {outcome.seconds:5.0f} s  {place}  {mutant.old}  ->  {mutant.new}"


def baseline(suites: list[tuple[str, ...]], slots: list[Slot]) -> dict[tuple[str, ...], float]:
    """Seconds that each list of tests takes on the tree as it is. Exits where it fails: nothing could be
    told from a failure then."""
    outcomes = run_all([(None, tests, 600.0) for tests in suites], slots)
    bad = [outcome.said for outcome in outcomes if outcome.verdict != "survived"]
    if bad:
        sys.exit("the tests fail without a mutant:\n" + "\n".join(bad))
    return {tests: outcome.seconds for tests, outcome in zip(suites, outcomes, strict=True)}


def report(seed: int, mutants: list[Mutant], outcomes: list[Outcome], seconds: float) -> tuple[str, int]:
    """The report's text, and how many survivors nobody has explained."""
    explained = explained_keys()
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    verdicts = [outcome.verdict for outcome in outcomes]
    counts = ", ".join(f"{verdicts.count(name)} {name}" for name in ("killed", "timeout", "survived"))
    lines = [
        "# Mutants",
        "Written by `make mutants`; a survivor is a change that no test has noticed.",
        "",
        f"Commit {commit}, seed {seed}: {len(mutants)} mutants in {seconds / 60:.0f} min, {counts}.",
    ]
    unexplained = 0
    for mutant, outcome in zip(mutants, outcomes, strict=True):
        if outcome.verdict != "survived":
            continue
        reason = explained.get(mutant.key)
        unexplained += reason is None
        lines += ["", f"## {mutant.path}:{mutant.line} {mutant.function}", f"    {mutant.old}"]
        lines += [f"    {mutant.new}", "", f"{reason or 'NOT EXPLAINED'}"]
    return "\n".join(lines) + "\n", unexplained


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--count", type=int, default=60, help="generated mutants, besides those written by hand"
    )
    parser.add_argument("--only", default="", help="only mutants whose key has this text")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--report", type=Path, help="write the report here")
    given = parser.parse_args()
    began = time.monotonic()
    mutants = [*written_mutants(ROOT), *drawn_mutants(ROOT, given.seed, given.count)]
    mutants = [mutant for mutant in mutants if given.only in mutant.key]
    suites = [nearest_tests(ROOT, mutant) for mutant in mutants]
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        slots = [Slot(Path(folder, str(number))) for number in range(given.jobs)]
        # one run of each set of files, whatever their order
        sets = {frozenset(tests): tests for tests in suites}
        took = {frozenset(tests): s for tests, s in baseline(list(sets.values()), slots).items()}
        work = [
            (mutant, tests, 30.0 + 3.0 * took[frozenset(tests)])
            for mutant, tests in zip(mutants, suites, strict=True)
        ]
        outcomes = run_all(work, slots)
    text, unexplained = report(given.seed, mutants, outcomes, time.monotonic() - began)
    print(text)
    if given.report is not None:
        given.report.write_text(text)
    sys.exit(1 if unexplained else 0)


main()
