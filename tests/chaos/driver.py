"""One run that suffers fault after fault, is resumed each time, and must end as if nothing had happened."""

import json
import math
import os
import random
import signal
import sqlite3
import stat
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from launcher.checkpoint.catalog import find_newest
from launcher.ending import REACTIONS
from launcher.track.journal import read_journal, step_records
from tests.chaos.damage import damage_file
from tests.chaos.faults import SIGNALS, Fault, draw_fault, draw_storage_fault
from tests.launch import start_launch
from tests.small_run import RECIPE

ROOT = Path(__file__).parents[2]
DEADLINE_S = 180.0
NOTHING = Fault(kind="none", target="rank", rank=0, phase="data", delay_s=0.0, after=0)
ENGINES = {
    "ddp": ["parallel.strategy=ddp"],
    "fsdp2": ["parallel.strategy=fsdp2"],
    "hsdp": ["parallel.strategy=hsdp", "parallel.shard_size=1"],
    **{f"zero{n}": ["parallel.engine=deepspeed", f"parallel.zero_stage={n}"] for n in range(4)},
}


@final
@dataclass(slots=True, kw_only=True)
class Outcome:
    """What a chain of faults did."""

    engine: str
    faults: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)


@final
class Chain:
    """One run and its faults."""

    def __init__(
        self, folder: Path, engine: str, *, steps: int, step_s: float, server: str | None = None
    ) -> None:
        self._folder, self._step_s = folder, step_s
        self.run = folder / "run"
        self._words = [
            *ENGINES[engine],
            *(f"train.steps={steps}", "checkpoint.every=10", "train.validate_every=10"),
            *("schedule={type: constant}", "guard.stall_s=12", "--nproc-per-node", "2"),
            *(("track.mlflow.enabled=true",) if server else ()),
        ]
        self._steps = steps
        self.outcome = Outcome(engine=engine)
        self._pid = 0
        self._code: int | None = None
        self._attempts = self._started = self._seen = 0
        self._lost: set[int] = set()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "small.yaml").write_text(RECIPE)
        python = folder / "python"
        # torchrun calls it with -u -m launcher.cli.rank --run-dir RUN.
        python.write_text(f'#!/bin/bash\nshift 3\nexec {sys.executable} -u -m tests.chaos.rank "$@"\n')
        python.chmod(python.stat().st_mode | stat.S_IXUSR)
        self._env = {"PYTHON_EXEC": str(python), "PYTHONPATH": str(ROOT), "CHAOS_ENGINE": engine}
        if server:
            self._env["MLFLOW_TRACKING_URI"] = server

    def suffer(self, faults: Sequence[Fault]) -> None:
        """Every fault in turn, each in an attempt of its own; then to the end."""
        started, continues = NOTHING, False  # whether the attempt has survived the fault before
        for fault in faults:
            if self._poll() == 0:
                break
            if fault.kind in ("tear", "flip"):
                self._damage(fault)
                continues = False
                continue
            self.outcome.faults.append(fault.text)
            if fault.inside or fault.kind == "cutoff" or self._pid == 0:
                self._stop_quietly()
                self._start(fault)
                started, continues = fault, False
            if not continues and not self._wait_for_begin():
                break
            continues = fault.endings == [None]
            if fault.inside:
                self._wait("the fault", self._fired().exists)
            elif fault.kind == "cutoff":
                time.sleep(fault.delay_s)
                self._replace()
            else:
                time.sleep(fault.delay_s)
                self._send(fault)
            self._check_end(fault)
            if fault is started and not fault.inside and self._fired().exists():
                self.outcome.faults.append(f"slow rank {fault.rank} in {fault.phase}")
        self._finish()

    def _start(self, fault: Fault) -> None:
        self._started += 1
        chaos = {
            # Beside a fault from outside, a rank is slow once.
            "kind": fault.kind if fault.inside or fault is NOTHING or fault.kind == "cutoff" else "slow",
            "phase": fault.phase,
            "rank": fault.rank,
            "after": fault.after if fault.inside else min(fault.after, 8),
            "step_s": self._step_s,
            "fired": str(self._fired()),
        }
        resumes = (self.run / "recipe.yaml").exists()
        words = ["resume", "run"] if resumes else ["small.yaml", *self._words, "--run-dir", "run"]
        env = {**self._env, "CHAOS": json.dumps(chaos)}
        self._pid = start_launch(*words, folder=self._folder, env=env)
        self._code = None

    def _damage(self, fault: Fault) -> None:
        """Stop, damage a file, and count from here: what was lost by it is not expected any more."""
        if self._pid == 0:
            self._start(NOTHING)
            self._wait_for_begin()
        time.sleep(fault.delay_s)
        if fault.after % 2 and self._poll() is None:
            self._signal([self._pid, *self._ranks()], signal.SIGKILL)
            self._wait("the process ends", lambda: self._code is not None)
        self._stop_quietly()
        if self._code == 0:
            return
        before = self._steps_logged()
        done = damage_file(self.run, fault.phase, fault.kind, random.Random(fault.after + self._started))
        if done is not None:
            self.outcome.faults.append(done)
        self._lost |= before - self._steps_logged()
        self._seen, self._attempts = len(self._records()), self._count("begin")

    def _steps_logged(self) -> set[int]:
        """Those that count: what a rollback trains again is not logged until it is."""
        path = self.run / "journal.jsonl"
        return set(step_records(path)) if path.exists() else set()

    def _replace(self) -> None:
        """Stop the whole attempt, let another begin, and let the old one come back: it must write nothing."""
        old, pids = self._pid, [self._pid, *self._ranks()]
        self._signal(pids, signal.SIGSTOP)
        self._pid = 0
        self._start(NOTHING)
        if not self._wait_for_begin():
            return
        known = self._records()[-1]["attempt"]
        self._signal(pids, signal.SIGCONT)
        deadline = time.monotonic() + DEADLINE_S
        while not (ended := os.waitpid(old, os.WNOHANG))[0]:
            if time.monotonic() > deadline:
                self._violate("the attempt that came back did not end")
                os.killpg(old, signal.SIGKILL)
                os.waitpid(old, 0)
                return
            time.sleep(0.05)
        code, records = os.waitstatus_to_exitcode(ended[1]), self._records()
        first = next(n for n, r in enumerate(records) if r["event"] == "start" and r["attempt"] == known)
        if code == 0 or any(record["attempt"] != known for record in records[first:]):
            self._violate(f"the attempt that came back ended with {code}, and may have written")

    def _fired(self) -> Path:
        return self._folder / f"fired-{self._started}"

    def _poll(self) -> int | None:
        if self._pid and self._code is None:
            ended, status = os.waitpid(self._pid, os.WNOHANG)
            if ended:
                self._code, self._pid = os.waitstatus_to_exitcode(status), 0
        return self._code

    def _records(self) -> list[dict[str, Any]]:
        path = self.run / "journal.jsonl"
        return read_journal(path) if path.exists() else []

    def _count(self, event: str) -> int:
        return sum(record["event"] == event for record in self._records())

    def _wait(self, what: str, until: Any) -> bool:
        deadline = time.monotonic() + DEADLINE_S
        while not until():
            if self._poll() is not None:
                return bool(until())
            if time.monotonic() > deadline:
                self._violate(f"{what}: not within {DEADLINE_S:g} s")
                os.killpg(self._pid, signal.SIGKILL)
                return False
            time.sleep(0.02)
        return True

    def _wait_for_begin(self) -> bool:
        found = self._wait("an attempt begins", lambda: self._count("begin") > self._attempts)
        self._attempts = self._count("begin")
        return found

    def _ranks(self) -> list[int]:
        path = Path(f"/proc/{self._pid}/task/{self._pid}/children")
        return [int(word) for word in path.read_text().split()] if path.exists() else []

    def _send(self, fault: Fault) -> None:
        pids = self._ranks()
        if fault.target == "rank":
            pids = pids[fault.rank : fault.rank + 1]
        elif fault.target == "agent":
            pids = [self._pid]
        else:
            pids = [self._pid, *pids]
        if fault.kind == "pause":
            self._signal(pids, signal.SIGSTOP)
            time.sleep(2.0)
            self._signal(reversed(pids), signal.SIGCONT)
        else:
            self._signal(pids, SIGNALS[fault.kind])

    @staticmethod
    def _signal(pids: Any, number: int) -> None:
        for pid in pids:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    def _check_end(self, fault: Fault) -> None:
        if fault.endings == [None]:
            return
        agent_gone = fault.kind == "kill" and fault.target != "rank"
        if agent_gone:
            self._wait("the process ends", lambda: self._code is not None)
        else:
            self._wait("the attempt ends", lambda: self._count("begin") > self._attempts)
        if self._code == 0:
            return  # it was done before the fault reached it
        if agent_gone:
            self._check_saved()
            return
        records = self._records()
        begins = [n for n, record in enumerate(records) if record["event"] == "begin"]
        first, following = begins[self._attempts - 1], begins[self._attempts : self._attempts + 1]
        ends = [r for r in records[first : following[0] if following else None] if r["event"] == "end"]
        found = ends[-1]["class"] if ends else None
        if found not in fault.endings:
            self._violate(f"{fault.text}: ended as {found}, not {fault.endings}")
        if self._code is not None and found is not None and self._code != REACTIONS[found].code:
            self._violate(f"{fault.text}: exit code {self._code} for {found}")
        if fault.kind in ("term", "int", "usr1") and ends:
            step = int(ends[-1]["reason"].split(" after step ")[1].split(",")[0])
            self._check_saved(step)
        self._check_saved()

    def _check_saved(self, step: int | None = None) -> None:
        """What the journal says was saved is there, or something newer is."""
        recent = self._records()[self._seen :]
        said = max((r["step"] for r in recent if r["event"] == "checkpoint"), default=0)
        wanted = said if step is None else step
        saved, _ = find_newest(str(self.run), verify=False)
        if (saved.step if saved else 0) < wanted:
            self._violate(f"step {wanted} was saved, but the newest good checkpoint is {saved}")

    def _stop_quietly(self) -> None:
        if self._poll() is None and self._pid:
            self._signal([self._pid], signal.SIGTERM)
            self._wait("a stop", lambda: self._code is not None)
        self._attempts = self._count("begin")  # one may have begun after the fault before

    def _finish(self) -> None:
        for _ in range(8):
            if self._poll() is None and self._pid:
                self._wait("the end", lambda: self._code is not None)
            if self._code == 0:
                return
            self._start(NOTHING)
        self._violate(f"not done after 8 more attempts; the last ended with {self._code}")

    def _violate(self, text: str) -> None:
        self.outcome.violations.append(text)

    def compare(self, reference: Path) -> None:
        """The same stream as without faults, to the last digit, up to an update that stayed skipped."""
        ours, theirs = (step_records(run / "journal.jsonl") for run in (self.run, reference))
        missing = set(range(1, self._steps + 1)) - ours.keys()
        if missing - self._lost or len(ours) + len(missing) != self._steps:
            self._violate(f"steps logged: {len(ours)} of {self._steps}, {len(self._lost)} were damaged")
        skipped = self._skipped()
        if len(skipped) > sum(text.startswith("nan") for text in self.outcome.faults):
            self._violate(f"updates skipped at {sorted(skipped)}")
        for key in ("loss", "grad_norm", "lr", "tokens"):
            end = min(skipped, default=self._steps + 1) if key in ("loss", "grad_norm") else self._steps + 1
            wrong = [s for s in theirs if s < end and s in ours and ours[s].get(key) != theirs[s][key]]
            if wrong:
                self._violate(f"{key} differs at {len(wrong)} steps, first {wrong[0]}")
        bad = [step for step, record in ours.items() if not math.isfinite(record["loss"])]
        if set(bad) != skipped:
            self._violate(f"losses are not finite at {bad}, skipped are {sorted(skipped)}")

    def _skipped(self) -> set[int]:
        """Steps whose update was skipped, and that were not trained again."""
        found: set[int] = set()
        for record in self._records():
            if "from_step" in record:
                found = {step for step in found if step <= record["from_step"]}
            if record["event"] == "skipped":
                found.add(record["step"])
        return found

    def check_metrics(self) -> None:
        """After an attempt with MLflow's server away, everything is sent to a store that works, once."""
        store = self._folder / "store.db"
        env = {"MLFLOW_TRACKING_URI": f"sqlite:///{store}", "MLFLOW_DISABLE_TELEMETRY": "true"}
        pid = start_launch("replay", "run", folder=self._folder, env=env)
        _, status = os.waitpid(pid, 0)
        with sqlite3.connect(store) as database:
            rows = database.execute("select step from metrics where key = 'loss'").fetchall()
        if status or sorted({step for (step,) in rows}) != list(range(1, self._steps + 1)):
            self._violate(f"replay ended with {status}, and MLflow has {len(rows)} losses")


def run_chain(
    folder: Path,
    engine: str,
    reference: Path,
    faults: Sequence[Fault],
    *,
    steps: int,
    step_s: float,
    server: str | None = None,
) -> Outcome:
    """A run that suffers these faults, perhaps with this tracking server, compared with one without any."""
    chain = Chain(folder, engine, steps=steps, step_s=step_s, server=server)
    chain.suffer(faults)
    chain.compare(reference)
    if server:
        chain.outcome.faults.append(f"server {'dead' if server.endswith(':9') else 'silent'}")
        chain.check_metrics()
    return chain.outcome


def run_reference(folder: Path, engine: str, *, steps: int) -> Path:
    """The same run without faults; returns its folder."""
    chain = Chain(folder, engine, steps=steps, step_s=0.0)
    chain.suffer([])
    assert not chain.outcome.violations, chain.outcome.violations
    return chain.run


def draw_faults(seed: int, count: int, *, storage: bool = False) -> list[Fault]:
    """A chain of faults from a seed: of processes, or of what they store."""
    random_ = random.Random(seed)
    if storage:
        return [draw_storage_fault(random_) for _ in range(count)]
    return [draw_fault(random_, inside=random_.random() < 0.3) for _ in range(count)]
