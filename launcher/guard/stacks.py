"""Where a process is, seen from outside: its state for the kernel, and its stacks. For Linux; torch-free."""

import faulthandler
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

import launcher

FOLDER_VARIABLE = "LAUNCH_STACKS"
"""Environment variable of a rank: the folder for its stacks. Unset: they are never asked for."""
DUMP_SIGNAL = 39
"""SIGRTMIN + 5 of Linux. Not SIGUSR1 or SIGUSR2, which schedulers send, and which ask for a stop."""

Running = Literal["running", "stopped", "uninterruptible", "traced", "gone"]
_STATES: Mapping[str, Running] = {"T": "stopped", "D": "uninterruptible", "Z": "gone", "X": "gone"}

_ROOT = str(Path(launcher.__file__).parents[1])
_FRAME = re.compile(r'^  File "(.*)", line (\d+) in (.*)$', re.MULTILINE)
_LOOK_S = 0.1


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A process as the kernel sees it."""

    state: Running
    answers: bool
    """Whether it can run, and writes its stacks when asked. The signal would kill a process that does not."""


@final
@dataclass(frozen=True, slots=True)
class Frame:
    """One line of a stack."""

    file: str
    line: int
    function: str

    @property
    def ours(self) -> bool:
        """Whether the code is this project's."""
        return self.file.startswith((f"{_ROOT}/launcher/", f"{_ROOT}/models/"))

    def __str__(self) -> str:
        file = os.path.relpath(self.file, _ROOT) if self.ours else self.file
        return f"{file}:{self.line} in {self.function}"


def install_stack_dumper(environment: Mapping[str, str]) -> None:
    """Append the stacks of all threads to a file whenever DUMP_SIGNAL comes.

    In C: it works as well while the main thread is stuck in C, or holds the interpreter's lock.
    """
    if folder := environment.get(FOLDER_VARIABLE):
        path = stacks_path(Path(folder), int(environment.get("RANK", "0")))
        path.parent.mkdir(parents=True, exist_ok=True)
        # Never closed: faulthandler keeps the file for as long as the process lives.
        faulthandler.register(DUMP_SIGNAL, file=open(path, "a"), all_threads=True)  # noqa: SIM115


def stacks_path(folder: Path, rank: int) -> Path:
    """The file with the stacks of a rank."""
    return folder / f"stacks-rank-{rank}.txt"


def look_at(pid: int) -> Process:
    """The state of a process now."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return Process(state="gone", answers=False)
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    state = _STATES.get(fields["State"].split()[0], "running")
    if int(fields["TracerPid"]):
        state = "traced"
    catches = int(fields["SigCgt"], 16) >> (DUMP_SIGNAL - 1) & 1
    return Process(state=state, answers=state == "running" and bool(catches))


def dump_stacks(folder: Path, pids: Mapping[int, int], wait_s: float) -> dict[int, str]:
    """The stacks, by rank, of every process that writes them in time.

    They are appended to the rank's file; if there are none, what the kernel says about the process.
    """
    before: dict[int, int] = {}
    for rank, pid in pids.items():
        if look_at(pid).answers:
            before[rank] = _size(stacks_path(folder, rank))
            os.kill(pid, DUMP_SIGNAL)
    deadline = time.monotonic() + wait_s
    sizes = before
    while before and time.monotonic() < deadline:
        time.sleep(_LOOK_S)
        earlier, sizes = sizes, {rank: _size(stacks_path(folder, rank)) for rank in before}
        if sizes == earlier and all(sizes[rank] > before[rank] for rank in before):
            break
    dumps = {rank: _read(stacks_path(folder, rank), before[rank]) for rank in before}
    for rank, pid in pids.items():
        if not dumps.get(rank):
            with open(stacks_path(folder, rank), "a") as stream:
                stream.write(describe_process(pid))
    return {rank: dump for rank, dump in dumps.items() if dump}


def describe_process(pid: int) -> str:
    """What the kernel says about a process that cannot report where it is itself."""
    lines = [f"process {pid} wrote no stacks"]
    for name in ("status", "wchan", "syscall", "stack"):
        try:
            text = Path(f"/proc/{pid}/{name}").read_text().strip()
        except OSError as error:
            text = error.strerror or str(error)
        if name == "status":
            text = ", ".join(
                line for line in text.splitlines() if line.startswith(("State", "VmRSS", "Tracer"))
            )
        lines.append(f"{name}: {text}".replace("\t", " "))
    return "\n".join(lines) + "\n\n"


def main_stack(dump: str) -> list[Frame]:
    """The frames of the main thread, innermost first."""
    # faulthandler begins with the newest thread, so the main thread is the last one.
    last = dump.rstrip().split("\n\n")[-1]
    return [Frame(file, int(line), function) for file, line, function in _FRAME.findall(last)]


def place_of(stack: Sequence[Frame]) -> Frame | None:
    """The innermost frame of this project, else the innermost of all."""
    return next((frame for frame in stack if frame.ours), stack[0] if stack else None)


def waits_for_others(stack: Sequence[Frame]) -> bool | None:
    """Whether the innermost frame is in a collective; None where the stack cannot say."""
    inner = next((frame for frame in stack if not frame.file.endswith("/torch/_ops.py")), None)
    # DDP's collectives run inside the backward pass, in C++.
    if inner is None or inner.function == "_engine_run_backward":
        return None
    if "/torch/distributed/checkpoint/" in inner.file:
        return False
    return "/torch/distributed/" in inner.file or "/deepspeed/comm/" in inner.file


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _read(path: Path, start: int) -> str:
    if not path.exists():
        return ""
    with open(path, errors="replace") as stream:
        stream.seek(start)
        return stream.read()
