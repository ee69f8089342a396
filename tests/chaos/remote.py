"""A run in an object store that refuses, is slow, cuts connections, and of processes killed in mid-upload."""

import contextlib
import os
import random
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, final

import fsspec

from launcher import files
from launcher.checkpoint.catalog import find_newest
from launcher.ending import REACTIONS
from launcher.fence import read_owner
from launcher.run_folder import is_run
from launcher.track.journal import read_journal, step_records
from tests.chaos.driver import ENGINES, ROOT, Outcome
from tests.launch import ENVIRONMENT, LAUNCH
from tests.s3 import Door, in_environment, serve_s3
from tests.small_run import RECIPE

RUN = "s3://checkpoints/run"
DEADLINE_S = 180.0
EVERY = 10
"""Steps from checkpoint to checkpoint."""
KINDS = ("503", "503", "reset", "reset", "slow", "403", "kill", "kill", "second")
CODES = {0, *(REACTIONS[ending].code for ending in ("storage", "user error", "node lost"))}
"""Of an attempt whose store fails; of one that was killed there is none."""


@final
@dataclass(frozen=True, slots=True)
class RemoteFault:
    """One fault of the store, or a kill at a request that writes, or a second start."""

    kind: Literal["503", "reset", "slow", "403", "kill", "second"]
    delay_s: float
    """After the start, or after the fault before."""
    requests: int
    """That meet it; a kill comes with that one."""

    @property
    def text(self) -> str:
        """For a report."""
        others = {"kill": "killed in mid-upload", "second": "a second start"}
        return others.get(self.kind, f"{self.kind} of the store")


def draw_remote_faults(seed: int, count: int) -> list[RemoteFault]:
    """A chain of them from a seed; one in three lasts longer than any patience."""
    random_ = random.Random(seed)
    faults = []
    for _ in range(count):
        kind: Any = random_.choice(KINDS)
        long = kind != "slow" and random_.random() < 1 / 3
        requests = random_.randrange(1, 120 if long and kind != "kill" else 15)
        faults.append(RemoteFault(kind, random_.uniform(0.0, 4.0), requests))
    return faults


@final
class RemoteChain:
    """One run and its faults."""

    def __init__(
        self, folder: Path, engine: str, door: Door, environment: Mapping[str, str], *, steps: int
    ) -> None:
        self._folder, self._door, self._steps, self._store = folder, door, steps, environment
        self.outcome = Outcome(engine=engine)
        self._process: subprocess.Popen[bytes] | None = None
        self._kills = 0
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "small.yaml").write_text(RECIPE)
        self._words = [
            *ENGINES[engine],
            *(f"train.steps={steps}", f"checkpoint.every={EVERY}", "train.validate_every=10"),
            *("schedule={type: constant}", "guard.stall_s=60", "--nproc-per-node", "2"),
        ]
        spools = folder / "tmp"
        spools.mkdir()
        self._env = {**os.environ, **ENVIRONMENT, **environment, "TMPDIR": str(spools)}
        self._env["PYTHONPATH"] = str(ROOT)

    def suffer(self, faults: Sequence[RemoteFault]) -> None:
        """Every fault in turn, then to the end with a store that works."""
        for fault in faults:
            if self._code() == 0:
                break
            if self._process is None or self._code() is not None:
                self._start()
            time.sleep(fault.delay_s)
            if self._code() is not None:
                continue
            self.outcome.faults.append(fault.text)
            self._meet(fault)
            self._door.behave()
            self._check()
        for _ in range(8):
            if self._process is None or self._code() is not None:
                self._start()
            self._wait("the end", lambda: self._code() is not None)
            self._check()
            if self._code() == 0:
                return
        self._violate(f"not done after 8 more attempts; the last ended with {self._code()}")

    def _meet(self, fault: RemoteFault) -> None:
        if fault.kind == "second":
            self._start_second()
        elif fault.kind == "kill":
            self._kill_at(fault.requests)
        else:
            self._door.trouble, self._door.times = fault.kind, fault.requests
            self._wait("the store is asked", lambda: self._door.times == 0, 15.0)

    def _start(self) -> None:
        begun = self._ask(lambda: is_run(RUN))
        if not begun:  # a launch that was cut off may have claimed it; a user would choose another --run-dir
            self._ask(lambda: files.remove(RUN))
        words = ["resume", RUN] if begun else ["small.yaml", *self._words, "--run-dir", RUN]
        self._process = self._call(words, "out.txt")

    def _call(self, words: Sequence[str], out: str) -> "subprocess.Popen[bytes]":
        with open(self._folder / out, "ab") as stream:
            return subprocess.Popen(
                [*LAUNCH, *words],
                cwd=self._folder,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )

    def _start_second(self) -> None:
        """Refused while the first lives, which does not notice."""
        # Only who has taken the run keeps others out: one that has just been started may come second.
        owner = self._ask(lambda: read_owner(RUN)) or {}
        begun = self._process is not None and owner.get("agent") == self._process.pid
        second = self._call(["resume", RUN], "second.txt")
        code = second.wait(DEADLINE_S)
        if begun and code == 0 and self._code() is None:
            self._violate("a second attempt ran beside the first")

    def _kill_at(self, number: int) -> None:
        """SIGKILL to agent and ranks as the number-th request that writes arrives."""
        killed, left = threading.Event(), [number]

        def on_request(text: str) -> None:
            left[0] -= text.split()[0] in ("PUT", "POST")
            if left[0] <= 0 and not killed.is_set():
                killed.set()
                self._kill()

        self._door.on_request = on_request
        self._wait("the store is asked", killed.is_set, 15.0)

    def _kill(self) -> None:
        self._kills += 1
        assert self._process is not None
        path = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        with contextlib.suppress(OSError):
            for pid in [*map(int, path.read_text().split()), self._process.pid]:
                os.kill(pid, signal.SIGKILL)

    def _code(self) -> int | None:
        return None if self._process is None else self._process.poll()

    def _wait(self, what: str, until: Callable[[], bool], limit_s: float | None = None) -> None:
        """Until then, or the process has ended; a limit that is given may pass."""
        deadline = time.monotonic() + (limit_s or DEADLINE_S)
        while not until() and self._code() is None:
            if time.monotonic() > deadline:
                if limit_s is None:
                    self._violate(f"{what}: not within {DEADLINE_S:g} s")
                    self._kill()
                return
            time.sleep(0.02)

    def _check(self) -> None:
        """Codes as documented, no traceback, and what the journal says was saved is there."""
        code = self._code()
        if code is not None and code >= 0 and code not in CODES:
            self._violate(f"ended with {code}")
        for name in ("out.txt", "second.txt"):
            path = self._folder / name
            if path.exists() and "Traceback" in path.read_text():
                self._violate(f"a traceback in {name}")
                path.rename(path.with_name(f"traceback-{len(self.outcome.faults)}.txt"))
        said = max((r["step"] for r in self._records() if r["event"] == "checkpoint"), default=0)
        saved, _ = self._ask(lambda: find_newest(RUN, verify=code is not None))
        if (saved.step if saved else 0) < said:
            self._violate(f"step {said} was saved, but the newest good checkpoint is {saved}")

    def _records(self) -> list[dict[str, Any]]:
        path = self._fetch_journal()
        return read_journal(path) if path is not None else []

    def _fetch_journal(self) -> Path | None:
        url, path = files.join(RUN, "journal.jsonl"), self._folder / "journal.jsonl"

        def fetch() -> Path | None:
            if not files.exists(url):
                return None
            path.write_bytes(files.read_bytes(url))
            return path

        return self._ask(fetch)

    def _ask(self, what: Callable[[], Any]) -> Any:
        with in_environment(self._store):
            return what()

    def compare(self, reference: Path) -> None:
        """The stream of a run without faults; a kill may cost the lines since the journal was last put."""
        path = self._fetch_journal()
        ours = step_records(path) if path is not None else {}
        theirs = step_records(reference / "journal.jsonl")
        missing = set(range(1, self._steps + 1)) - ours.keys()
        if len(missing) > 2 * EVERY * self._kills or len(ours) + len(missing) != self._steps:
            self._violate(f"steps logged: {len(ours)} of {self._steps} after {self._kills} kills")
        for key in ("loss", "grad_norm", "lr", "tokens"):
            wrong = [step for step in ours if ours[step].get(key) != theirs[step][key]]
            if wrong:
                self._violate(f"{key} differs at {len(wrong)} steps, first {wrong[0]}")
        if number := self._ask(lambda: files.abort_uploads(RUN)):
            self._violate(f"{number} uploads in parts are left")

    def _violate(self, text: str) -> None:
        self.outcome.violations.append(text)


def run_remote_chain(
    folder: Path, engine: str, reference: Path, faults: Sequence[RemoteFault], *, steps: int
) -> Outcome:
    """A run in an object store on loopback that suffers these faults, compared with one without any."""
    with tempfile.TemporaryDirectory() as name, serve_s3(Path(name)) as (door, environment):
        fsspec.get_filesystem_class("s3").clear_instance_cache()  # of the chain before, at another address
        chain = RemoteChain(folder, engine, door, environment, steps=steps)
        chain.suffer(faults)
        chain.compare(reference)
    return chain.outcome
