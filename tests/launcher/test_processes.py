"""Processes that serve one function: who is reused, what a failure takes with it, and that none is left."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launcher.processes import Failure, GroupError, run_each, run_group

FORK = multiprocessing.get_context("fork")


def _wait_until_gone(pid: int) -> None:
    """The limit is for a loaded machine; a killed process counts also before it is collected."""
    deadline = time.monotonic() + 60
    while Path(f"/proc/{pid}").exists() and "zombie" not in Path(f"/proc/{pid}/status").read_text():
        assert time.monotonic() < deadline, f"process {pid} lives on"
        time.sleep(0.02)


def test_one_process_serves_many_tasks() -> None:
    answers = list(run_each(lambda task, slot: (task, slot, os.getpid()), [1, 2, 3], jobs=1, context=FORK))
    assert [(task, answer[:2]) for task, answer in answers] == [(k, (k, 0)) for k in (1, 2, 3)]
    assert len({answer[2] for _, answer in answers}) == 1
    assert answers[0][1][2] != os.getpid()


def test_a_death_takes_one_task_with_it_and_the_next_gets_a_new_process() -> None:
    def die_of_two(task: int, slot: int) -> int:
        if task == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return -task

    answers = dict(run_each(die_of_two, [1, 2, 3], jobs=1, context=FORK))
    assert answers == {1: -1, 2: Failure("the process ended with exit code -9 and no message"), 3: -3}


def test_what_a_task_raises_is_its_answer_and_its_process_continues() -> None:
    def fail_of_one(task: int, slot: int) -> int:
        if task == 1:
            sys.exit("not an Exception, and reported all the same")
        return os.getpid()

    failure, pid, again = (answer for _, answer in run_each(fail_of_one, [1, 2, 3], jobs=1, context=FORK))
    assert isinstance(failure, Failure)
    assert "reported all the same" in failure.reason
    assert pid == again


def test_leaving_early_ends_the_processes() -> None:
    tasks = run_each(
        lambda task, slot: os.getpid() if task == 0 else time.sleep(600), [0, 1], jobs=2, context=FORK
    )
    _, pid = next(tasks)
    assert isinstance(pid, int)
    tasks.close()  # type: ignore[attr-defined]
    _wait_until_gone(pid)
    assert multiprocessing.active_children() == []


def test_the_first_reason_of_a_group_is_told_from_its_consequences() -> None:
    def fail(task: float, rank: int) -> None:
        time.sleep(task)
        raise ValueError(f"after {task} s")

    with pytest.raises(GroupError, match=r"(?s)rank 1: Traceback.*rank 0: Traceback") as caught:
        run_group(fail, [1.0, 0.0], timeout_s=60.0, context=FORK)
    assert caught.value.first.endswith("ValueError: after 0.0 s\n")


PARENT = """
import os, time
from launcher.processes import forkserver, run_group

def serve(task, rank):
    os.write(1, f"{os.getpid()}\\n".encode())  # in one piece
    time.sleep(600)

if __name__ == "__main__":
    run_group(serve, [None, None], timeout_s=600, context=forkserver("launcher.world"))
"""


def test_no_process_outlives_a_parent_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / "parent.py").write_text(PARENT)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, str(tmp_path / "parent.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        lines = [parent.stdout.readline() for _ in range(2)]
        parent.kill()
    for line in lines:
        _wait_until_gone(int(line))
