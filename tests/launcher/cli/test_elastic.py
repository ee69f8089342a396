"""Nodes that are started by hand: one is lost, comes back, and training continues with the same samples."""

import contextlib
import os
import re
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher.recipe.compile import load_frozen, seal_recipe
from launcher.track.journal import read_journal, step_records
from launcher.track.settle import last_attempt
from tests.launch import ENVIRONMENT, LAUNCH
from tests.small_run import RECIPE, losses, train_run
from tests.wait import wait_for

OVERRIDES = (
    "parallel.strategy=fsdp2",
    "model.dropout=0",
    "train.steps=100000",
    "train.validate_every=100000",
    "guard.stall_s=10",
    "checkpoint.every=20",
    "schedule={type: constant}",
)
TIMING = "keep_alive_interval=1,keep_alive_max_attempt=4,last_call_timeout=4"
"""Shorter than what a real network needs."""


@contextlib.contextmanager
def program(words: list[str], folder: Path, out: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A program in a session of its own, which is gone afterwards."""
    with open(out, "wb") as stream:
        process = subprocess.Popen(
            words,
            cwd=folder,
            env={**os.environ, **ENVIRONMENT},
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def node(run: Path, name: str) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
    return program(["bash", str(run / "job.sh")], run.parent, run.parent / f"{name}.txt")


def is_open(run: Path) -> bool:
    """Whether the place where the nodes meet answers: whoever comes first has opened it."""
    address = load_frozen(str(run / "recipe.yaml")).recipe.cluster.rendezvous
    assert address is not None
    host, _, port = address.rpartition(":")
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=1.0):
        return True
    return False


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run that is prepared, not started: `launch` becomes the agent, so it is stopped as it waits."""
    (tmp_path / "small.yaml").write_text(RECIPE)
    meeting = f"cluster.rendezvous=127.0.0.1:{free_port()}"
    words = ["small.yaml", *OVERRIDES, meeting, "--nodes", "2", "--run-dir", "run"]
    out = tmp_path / "launch.txt"
    with program([*LAUNCH, *words], tmp_path, out) as process:
        wait_for(lambda: "2 nodes meet at 127.0.0.1" in out.read_text())
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130, out.read_text()
    assert "launch: stopped by user: stopped before its first step" in out.read_text()
    script = tmp_path / "run/job.sh"
    text = script.read_text()
    usual = "keep_alive_interval=2,keep_alive_max_attempt=5,last_call_timeout=10"
    assert usual in text
    script.write_text(text.replace(usual, TIMING))
    return script.parent


def records(run: Path, event: str) -> list[dict[str, Any]]:
    journal = run / "journal.jsonl"
    return [r for r in read_journal(journal) if r["event"] == event] if journal.exists() else []


def trains(run: Path, attempt: int) -> Callable[[], bool]:
    """Whether this attempt has made 20 steps."""
    return lambda: len([r for r in records(run, "step") if r["attempt"] == attempt]) > 20


def test_a_lost_node_shrinks_the_world_and_its_return_grows_it_with_the_same_samples(run: Path) -> None:
    script = run / "job.sh"
    script.write_text(script.read_text().replace("--nnodes=2:2", "--nnodes=1:2"))
    recipe = run / "recipe.yaml"
    _, _, text = recipe.read_text().partition("\n")
    recipe.write_text(seal_recipe(text.replace("min_nodes: null", "min_nodes: 1")))
    with node(run, "first") as first:
        wait_for(lambda: is_open(run))
        with node(run, "second") as second:
            wait_for(lambda: trains(run, 1)() and bool(records(run, "checkpoint")))
            os.killpg(second.pid, signal.SIGKILL)
        wait_for(trains(run, 2))
        with node(run, "second again") as again:
            wait_for(trains(run, 3))
            os.kill(first.pid, signal.SIGTERM)
            assert first.wait(60) == 130
            assert again.wait(60) == 16, "it has seen no signal itself"
    said = (run.parent / "first.txt").read_text()
    assert said.count("training on 2 of 2 nodes") == 2
    assert said.count("training on 1 of 2 nodes") == 1
    assert [r["world_size"] for r in records(run, "start")] == [2, 1, 2]
    assert [r["class"] for r in records(run, "end") if r["attempt"] == 2][-1] == "regrouped"
    begun = {r["attempt"]: r["from_step"] for r in records(run, "begin")}
    last = {n: max(r["step"] for r in records(run, "step") if r["attempt"] == n) for n in (1, 2, 3)}
    saved = [r["step"] for r in records(run, "checkpoint") if r["attempt"] == 1]
    assert saved[-1] <= begun[2] <= last[1], "from the newest checkpoint"
    assert begun[3] == last[2], "asked to leave, the ranks lost no step"
    steps = step_records(run / "journal.jsonl")
    assert sorted(steps) == list(range(1, last[3] + 1))
    alone = train_run(run.parent / "alone", *OVERRIDES, "parallel.strategy=single", f"train.steps={last[3]}")
    assert losses(steps) == pytest.approx(losses(alone), rel=1e-5)


@pytest.mark.slow
def test_the_rank_that_hangs_is_named_on_every_node_and_all_start_again(run: Path) -> None:
    with node(run, "first") as first:
        wait_for(lambda: is_open(run))
        with node(run, "second") as second:
            wait_for(trains(run, 1))
            pids = [int(p) for p in children(second.pid)]
            assert len(pids) == 1
            os.kill(pids[0], signal.SIGSTOP)
            wait_for(trains(run, 2))
            os.kill(second.pid, signal.SIGINT)
            assert (second.wait(60), first.wait(60)) == (130, 16)
    for name in ("first", "second"):
        said = (run.parent / f"{name}.txt").read_text()
        assert re.search(r"launch: hang: rank \d on .*, process stopped", said), said
    assert [r["class"] for r in records(run, "end") if r["attempt"] == 1][-1] == "hang"


def children(pid: int) -> list[str]:
    """Processes that a process has started."""
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def test_losing_the_host_of_the_meeting_ends_the_attempt(run: Path) -> None:
    with node(run, "first") as first:
        wait_for(lambda: is_open(run))
        with node(run, "second") as second:
            wait_for(trains(run, 1))
            os.killpg(first.pid, signal.SIGKILL)
            assert second.wait(60) == 13
    said = (run.parent / "second.txt").read_text()
    assert "launch: node lost: no connection to 127.0.0.1:" in said
    assert "Traceback" not in said
    last = last_attempt(run / "journal.jsonl")
    assert last is not None
    assert last.end is not None
    assert last.end["class"] == "node lost"
