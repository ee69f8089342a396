"""Where another process is: its state, its stacks."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from launcher.guard.stacks import (
    FOLDER_VARIABLE,
    Frame,
    dump_stacks,
    look_at,
    main_stack,
    place_of,
    stacks_path,
    waits_for_others,
)

INSTALL = "from launcher.guard.stacks import install_stack_dumper; install_stack_dumper(os.environ)\n"


@contextmanager
def program(text: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that runs this program, as rank 0, at the time when it has said that it is ready."""
    environment = {**os.environ, FOLDER_VARIABLE: str(folder), "RANK": "0"}
    argv = [sys.executable, "-c", "import os, sys, time, threading\n" + text]
    with subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def wait_for_state(pid: int, state: str) -> None:
    deadline = time.monotonic() + 30
    while look_at(pid).state != state:
        assert time.monotonic() < deadline, look_at(pid)
        time.sleep(0.005)


@pytest.mark.parametrize(
    "stuck_in",
    [
        pytest.param("time.sleep(99)", id="a call that releases the interpreter's lock"),
        pytest.param("sum(range(10 ** 12))", id="C code that holds it"),
    ],
)
def test_stacks_come_from_wherever_it_is_stuck_the_main_threads_last(tmp_path: Path, stuck_in: str) -> None:
    text = (
        INSTALL + "begun = threading.Event()\ndef other(): begun.set(); time.sleep(99)\n"
        "threading.Thread(target=other, daemon=True).start()\nbegun.wait()\n"
        f"def stuck():\n  print('ready', flush=True)\n  {stuck_in}\nstuck()"
    )
    with program(text, tmp_path) as process:
        dump = dump_stacks(tmp_path, {0: process.pid}, wait_s=30.0)[0]
        assert [frame.function for frame in main_stack(dump)] == ["stuck", "<module>"]
        assert " in other\n" in dump, "all threads"
        assert stacks_path(tmp_path, 0).read_text() == dump
        second = dump_stacks(tmp_path, {0: process.pid}, wait_s=30.0)[0]
        assert stacks_path(tmp_path, 0).read_text() == dump + second


def test_a_process_without_the_dumper_is_not_killed_by_being_asked(tmp_path: Path) -> None:
    with program("print('ready', flush=True)\nsys.stdin.read() or time.sleep(99)", tmp_path) as process:
        assert not look_at(process.pid).answers
        assert dump_stacks(tmp_path, {0: process.pid}, wait_s=30.0) == {}
        assert process.poll() is None
        assert (
            f"process {process.pid} wrote no stacks\nstatus: State: " in stacks_path(tmp_path, 0).read_text()
        )


def test_a_stopped_process_is_described_and_asked_nothing(tmp_path: Path) -> None:
    with program(INSTALL + "print('ready', flush=True)\nwhile True: time.sleep(0.01)", tmp_path) as process:
        assert look_at(process.pid).answers
        process.send_signal(signal.SIGSTOP)
        wait_for_state(process.pid, "stopped")
        start = time.monotonic()
        assert dump_stacks(tmp_path, {0: process.pid}, wait_s=30.0) == {}
        assert time.monotonic() - start < 20, "nothing to wait for"
        assert "State: T (stopped)" in stacks_path(tmp_path, 0).read_text()
        process.send_signal(signal.SIGCONT)
        wait_for_state(process.pid, "running")
        assert dump_stacks(tmp_path, {0: process.pid}, wait_s=30.0)[0], "it continues, and answers"
        process.kill()
        wait_for_state(process.pid, "gone")  # a zombie
        process.wait()
        assert look_at(process.pid).state == "gone"


def test_a_process_under_a_debugger_is_told_from_a_stopped_one(tmp_path: Path) -> None:
    seize = 0x4206
    with program("print('ready', flush=True)\ntime.sleep(99)", tmp_path) as process:
        if ctypes.CDLL(None).ptrace(seize, process.pid, 0, 0) != 0:
            pytest.skip("this machine forbids debuggers")
        assert look_at(process.pid).state == "traced"


TORCH = "/x/site-packages/torch"
ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("frames", "waits"),
    [
        ([(f"{TORCH}/distributed/distributed_c10d.py", "all_reduce")], True),
        (
            [(f"{TORCH}/_ops.py", "__call__"), (f"{TORCH}/distributed/_functional_collectives.py", "wait")],
            True,
        ),
        ([(f"{TORCH}/autograd/graph.py", "_engine_run_backward")], None),
        ([("/x/site-packages/deepspeed/comm/torch.py", "all_reduce")], True),
        ([(f"{TORCH}/distributed/checkpoint/filesystem.py", "write")], False),
        ([(f"{ROOT}/models/stack.py", "forward"), (f"{TORCH}/distributed/fsdp/x.py", "pre_forward")], False),
        ([], None),
    ],
)
def test_waiting_is_read_from_the_innermost_frame(frames: list[tuple[str, str]], waits: bool | None) -> None:
    assert waits_for_others([Frame(file, 1, function) for file, function in frames]) is waits


def test_the_place_is_the_innermost_line_of_this_project() -> None:
    stack = [
        Frame("/usr/lib/python3.11/threading.py", 3, "wait"),
        Frame(f"{ROOT}/launcher/world.py", 40, "barrier"),
        Frame(f"{ROOT}/launcher/train.py", 80, "train"),
    ]
    assert str(place_of(stack)) == "launcher/world.py:40 in barrier"
    assert str(place_of(stack[:1])) == "/usr/lib/python3.11/threading.py:3 in wait"
    assert place_of([]) is None
