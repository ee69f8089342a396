"""The watchdog beside real processes, of which one hangs."""

import contextlib
import multiprocessing
import os
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from launcher.clock import Clock
from launcher.guard.beacon import open_beacon, read_mark
from launcher.guard.judge import Limits, Verdict
from launcher.guard.stacks import install_stack_dumper, look_at, stacks_path
from launcher.guard.watchdog import Node, Watchdog, rank_variables

LIMITS = Limits(stall_s=0.5, start_s=60.0)
PROGRAM = Path(__file__).with_name("hanging_rank.py")
WAIT_S = 60.0


@contextlib.contextmanager
def ranks(
    folder: Path, size: int, hang: dict[int, tuple[str, str]]
) -> Iterator[dict[int, subprocess.Popen[bytes]]]:
    """Running ranks; `hang` gives those that hang, with step and phase, and they do already."""
    variables = rank_variables(folder, folder / "logs")
    found = {
        rank: subprocess.Popen(
            [sys.executable, str(PROGRAM), str(rank), str(size), str(folder), *hang.get(rank, ())],
            env={**os.environ, **variables, "RANK": str(rank)},
        )
        for rank in range(size)
    }
    try:
        for rank, (step, phase) in hang.items():
            until(partial(_is_at, folder, rank, found[rank], (int(step), phase)))
        yield found
    finally:
        for process in found.values():
            process.kill()
            process.wait()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.005)


def _is_at(folder: Path, rank: int, process: subprocess.Popen[bytes], place: tuple[int, str]) -> bool:
    mark = read_mark(folder, rank, process.pid)
    return (mark.step, mark.where) == place


def steps(folder: Path, rank: int, process: subprocess.Popen[bytes]) -> int:
    return read_mark(folder, rank, process.pid).steps


def node(
    folder: Path, processes: dict[int, subprocess.Popen[bytes]], *, at: int = 0, num_nodes: int = 1
) -> Node:
    return Node(
        num_nodes=num_nodes,
        per_node=2 if num_nodes == 1 else 1,
        host=f"host{at}",
        pids=lambda: {rank: process.pid for rank, process in processes.items()},
        beacons=folder,
        logs=folder / "logs",
    )


def watchdog(
    watched: Node, found: "queue.Queue[Verdict]", *, limits: Limits = LIMITS, gather_s: float = 30.0
) -> Watchdog:
    return Watchdog(watched, limits, found.put, poll_s=0.05, gather_s=gather_s)


@pytest.mark.parametrize("stopped", [0, 1])
def test_a_stopped_rank_is_named_and_the_others_stacks_are_kept(tmp_path: Path, stopped: int) -> None:
    found: queue.Queue[Verdict] = queue.Queue()
    with ranks(tmp_path, 2, {}) as processes:
        until(lambda: all(steps(tmp_path, *item) > 3 for item in processes.items()))
        processes[stopped].send_signal(signal.SIGSTOP)
        with watchdog(node(tmp_path, processes), found):
            verdict = found.get(timeout=WAIT_S)
    assert (verdict.rank, verdict.host) == (stopped, "host0")
    assert f"rank {stopped} on host0 is in " in verdict.line
    assert ", process stopped" in verdict.line
    assert "others wait at" in verdict.line
    assert "in all_reduce\n" in stacks_path(tmp_path / "logs", 1 - stopped).read_text()
    assert "State: T (stopped)" in stacks_path(tmp_path / "logs", stopped).read_text()


@pytest.mark.parametrize("phase", ["data", "step"])
def test_a_rank_that_hangs_in_its_program_is_named_with_the_line(tmp_path: Path, phase: str) -> None:
    found: queue.Queue[Verdict] = queue.Queue()
    with ranks(tmp_path, 2, {1: ("3", phase)}) as processes, watchdog(node(tmp_path, processes), found):
        verdict = found.get(timeout=WAIT_S)
    assert verdict.rank == 1
    assert f"rank 1 on host0 is in {phase} of step 3 since " in verdict.line
    assert f"at {PROGRAM}:" in verdict.line
    assert " in hang" in verdict.line


def test_two_nodes_agree_on_the_rank_also_the_one_that_is_healthy(tmp_path: Path) -> None:
    found: list[queue.Queue[Verdict]] = [queue.Queue(), queue.Queue()]
    with ranks(tmp_path, 2, {1: ("3", "data")}) as processes, contextlib.ExitStack() as watching:
        for at in range(2):
            watched = node(tmp_path, {at: processes[at]}, at=at, num_nodes=2)
            watching.enter_context(watchdog(watched, found[at]))
        verdicts = [each.get(timeout=WAIT_S) for each in found]
    assert verdicts[0] == verdicts[1]
    assert (verdicts[0].rank, verdicts[0].host) == (1, "host1")


def test_a_node_that_is_not_stalled_is_asked_and_its_slow_rank_not_called_a_hang(tmp_path: Path) -> None:
    found: list[queue.Queue[Verdict]] = [queue.Queue(), queue.Queue()]
    patient = Limits(stall_s=50.0, start_s=60.0)
    with ranks(tmp_path, 2, {1: ("3", "data")}) as processes, contextlib.ExitStack() as watching:
        for at, limits in enumerate((LIMITS, patient)):
            watched = node(tmp_path, {at: processes[at]}, at=at, num_nodes=2)
            watching.enter_context(watchdog(watched, found[at], limits=limits))
        answer = tmp_path / "logs/stall-1/verdict.json"
        until(answer.exists)
        assert answer.read_text() == "null"
        assert (tmp_path / "logs/stall-1/node-1.json").exists()
    assert all(each.empty() for each in found)


def test_a_node_that_does_not_answer_is_named(tmp_path: Path) -> None:
    found: queue.Queue[Verdict] = queue.Queue()
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/node-1.host").write_text("far away")
    with ranks(tmp_path, 2, {1: ("3", "data")}) as processes:
        watched = node(tmp_path, {0: processes[0]}, num_nodes=2)
        with watchdog(watched, found, gather_s=0.3):
            verdict = found.get(timeout=WAIT_S)
    assert (verdict.rank, verdict.host) == (None, "far away")


AGENT = """
import sys
from pathlib import Path
from launcher.guard.judge import Limits
from launcher.guard.watchdog import Node, Watchdog
folder, *pids = sys.argv[1:]
found = {rank: int(pid) for rank, pid in enumerate(pids)}
node = Node(num_nodes=1, per_node=2, host="a", pids=lambda: found,
            beacons=Path(folder), logs=Path(folder) / "logs")
say = lambda verdict: print(verdict.line, flush=True)
with Watchdog(node, Limits(stall_s=2.0, start_s=60.0), say, poll_s=0.05):
    sys.stdin.read()
"""


def test_a_suspended_job_that_continues_is_not_taken_for_a_hang(tmp_path: Path) -> None:
    pipe = subprocess.PIPE
    with ranks(tmp_path, 2, {}) as processes:
        until(lambda: all(steps(tmp_path, *item) > 3 for item in processes.items()))
        pids = [process.pid for process in processes.values()]
        argv = [sys.executable, "-c", AGENT, str(tmp_path), *map(str, pids)]
        with subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True) as agent:
            try:
                until(lambda: len(os.listdir(f"/proc/{agent.pid}/task")) == 2)  # it watches
                job = [agent.pid, *pids]
                for pid in job:
                    os.kill(pid, signal.SIGSTOP)
                until(lambda: all(look_at(pid).state == "stopped" for pid in job))
                time.sleep(2.5)  # above the limit
                before = steps(tmp_path, 0, processes[0])
                agent.send_signal(signal.SIGCONT)
                time.sleep(0.2)  # the watchdog looks before a rank continues
                for pid in pids:
                    os.kill(pid, signal.SIGCONT)
                until(lambda: steps(tmp_path, 0, processes[0]) > before + 20)
                processes[1].send_signal(signal.SIGSTOP)
                assert agent.stdout is not None
                # The first word is about the hang after it: there was none about the pause.
                assert "rank 1 on a" in agent.stdout.readline()
            finally:
                agent.kill()


def _train(rank: int, folder: Path) -> None:
    """Two ranks that add numbers up, until they are killed."""
    os.environ |= {**rank_variables(folder, folder / "logs"), "RANK": str(rank)}
    torch.set_num_threads(1)
    install_stack_dumper(os.environ)
    clock = Clock(beacon=open_beacon(os.environ))
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    value = torch.ones(1000)
    for step in range(1, 10**9):
        with clock.phase("data", step):
            pass
        with clock.phase("step"):
            dist.all_reduce(value)
            time.sleep(0.01)


@pytest.mark.parametrize(
    "limits",
    [
        pytest.param(LIMITS, id="given"),
        pytest.param(Limits(stall_s=None, start_s=1800.0), id="default", marks=pytest.mark.slow),
    ],
)
def test_a_stopped_rank_of_gloo_is_named_and_the_collective_of_the_other(
    tmp_path: Path, limits: Limits
) -> None:
    found: queue.Queue[Verdict] = queue.Queue()
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_train, args=(rank, tmp_path), daemon=True) for rank in range(2)]
    for process in processes:
        process.start()
    pids = {rank: process.pid or 0 for rank, process in enumerate(processes)}
    watched = Node(
        num_nodes=1, per_node=2, host="a", pids=lambda: pids, beacons=tmp_path, logs=tmp_path / "logs"
    )
    try:
        until(lambda: all(read_mark(tmp_path, rank, pid).steps > 3 for rank, pid in pids.items()))
        os.kill(pids[0], signal.SIGSTOP)
        stopped = time.monotonic()
        with Watchdog(watched, limits, found.put):
            verdict = found.get(timeout=WAIT_S)
            assert time.monotonic() - stopped < 60
    finally:
        for process in processes:
            process.kill()
            process.join()
    assert verdict.rank == 0
    assert "rank 0 on a is in " in verdict.line
    assert ", process stopped; others wait at " in verdict.line
    assert "in all_reduce\n" in stacks_path(tmp_path / "logs", 1).read_text()
