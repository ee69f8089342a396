"""A trace holds the steps asked for, of every rank, and changes nothing of the training."""

import gzip
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from launcher.clock import Clock
from launcher.guard.stop import StopRequests
from launcher.report.run_facts import read_facts
from launcher.report.run_tables import traced
from launcher.run_folder import LocalMirror
from launcher.track.config import TraceConfig
from launcher.track.journal import read_journal, step_records
from launcher.track.trace import StepTracer, make_tracer, seconds_of
from launcher.train import train
from launcher.world import World, world_on
from tests.ranks import run_ranks
from tests.small_run import losses, make_run, small_recipe, train_run

WORDS = ("train.steps=8", "parallel.strategy=fsdp2", "cluster.nproc_per_node=2", "checkpoint.every=4")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight steps on two ranks, of which the fourth and fifth are traced."""
    folder = tmp_path_factory.mktemp("trace") / "run"
    recipe = small_recipe(*WORDS, "track.trace={from_step: 4, steps: 2}")
    run_url = make_run(folder, recipe)

    def rank(world: World) -> None:
        clock = Clock(tracer=make_tracer(recipe.track.trace, run_url, world))
        mirror = LocalMirror(folder, run_url)
        train(recipe, run_url, world, stop=StopRequests(), clock=clock, mirror=mirror, mlflow=None)

    run_ranks(2, rank)
    return folder


@pytest.mark.parametrize("rank", [0, 1])
def test_each_rank_s_file_holds_the_phases_of_the_steps_asked_for(run: Path, rank: int) -> None:
    path = run / f"traces/step-0000000004-rank-{rank}.json.gz"
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    names = [event["name"] for event in events if event.get("cat") == "user_annotation"]
    assert names.count("phase step") == 2
    assert names.count("phase checkpoint") == 1
    assert any(event["name"].startswith("aten::") for event in events)
    assert "Self CPU" in (run / f"traces/step-0000000004-rank-{rank}.txt").read_text()


def test_a_traced_run_trains_the_same(run: Path, tmp_path: Path) -> None:
    plain = train_run(tmp_path / "run", *WORDS[:2], "checkpoint.every=4", ranks=2)
    assert losses(step_records(run / "journal.jsonl")) == losses(plain)


def test_without_a_section_nothing_is_traced(tmp_path: Path) -> None:
    assert run_ranks(1, lambda world: make_tracer(None, str(tmp_path), world)) == [None]


def span(name: str, begun: float, ended: float, device: str = "CPU") -> SimpleNamespace:
    """What torch's profiler returns, in microseconds."""
    where, time = SimpleNamespace(name=device), SimpleNamespace(start=begun * 1e6, end=ended * 1e6)
    return SimpleNamespace(name=name, device_type=where, time_range=time)


def test_communication_alone_is_what_no_computation_covers() -> None:
    # Of two steps, on a CPU: gloo 2 to 8, operators 0 to 3 (one inside another) and 6 to 7.
    events = [
        span("phase step", 0, 9),
        span("phase data", 9, 10),
        span("aten::linear", 0, 3),
        span("aten::mm", 1, 2),
        span("gloo:all_reduce", 2, 8),
        span("c10d::allreduce_", 2, 9),
        span("aten::add", 6, 7),
    ]
    expected = {"phase step": 4.5, "phase data": 0.5, "communication": 3.0, "communication, alone": 2.0}
    assert seconds_of(events, 2) == pytest.approx(expected)


def test_on_a_gpu_only_its_kernels_count() -> None:
    events = [
        span("phase step", 0, 10),
        span("phase step", 1, 10, "CUDA"),
        span("aten::mm", 0, 10),
        span("sm90_gemm", 1, 4, "CUDA"),
        span("ncclDevKernel_AllGather", 3, 6, "CUDA"),
    ]
    expected = {"phase step": 10.0, "communication": 3.0, "communication, alone": 2.0}
    assert seconds_of(events, 1) == pytest.approx(expected)
    assert seconds_of([], 1) == {"communication": 0.0, "communication, alone": 0.0}


def test_the_journal_says_what_a_traced_step_was(run: Path) -> None:
    (line,) = [line for line in read_journal(run / "journal.jsonl") if line["event"] == "trace"]
    assert (line["step"], line["steps"]) == (4, 2)
    assert line["artifacts"] == ["traces/step-0000000004-rank-0.txt", "traces/step-0000000004-rank-0.json.gz"]
    seconds = line["per_step_s"]
    assert 0 < seconds["communication, alone"] <= seconds["communication"] < seconds["phase step"] * 2
    table = (run / "traces/step-0000000004-rank-0.txt").read_text()
    assert f"{1000 * seconds['communication']:,.2f} ms a step" in table
    title, *rows = traced(read_facts(str(run)))
    assert title[1] == "a step, of 2 from 4 on"
    assert [name for name, _ in rows] == list(seconds)


def begin_steps(world: World, run_url: str) -> list[int]:
    config = TraceConfig(from_step=2, steps=1, every=3, memory=True)
    tracer, begun = StepTracer(config, run_url, world), []
    for step in range(1, 10):
        tracer.begin_step(step)
        with tracer.inside("step"):
            torch.ones(1000).sum()
        found = tracer.take()
        begun += [] if found is None else [found.step]
    return begun


def test_steps_are_traced_again_every_so_often_with_what_they_allocate(tmp_path: Path) -> None:
    assert run_ranks(1, begin_steps, str(tmp_path)) == [[2, 5, 8]]
    assert "CPU Mem" in (tmp_path / "traces/step-0000000005-rank-0.txt").read_text()


def test_a_trace_that_no_viewer_opens_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("launcher.track.trace._MOST_BYTES", 10)
    assert begin_steps(world_on("cpu"), str(tmp_path)) == [2, 5, 8]
    assert not list(tmp_path.glob("**/*.gz"))
    assert "is not written; trace fewer steps" in capsys.readouterr().out
