"""A trace holds the steps asked for, of every rank, and changes nothing of the training."""

import gzip
import json
from pathlib import Path

import pytest

from launcher.clock import Clock
from launcher.guard.stop import StopRequests
from launcher.run_folder import LocalMirror
from launcher.track.journal import step_records
from launcher.track.trace import make_tracer
from launcher.train import train
from launcher.world import World
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
