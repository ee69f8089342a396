"""Measurements of layers are over all samples, wherever those are, and change nothing of the training."""

import math
from pathlib import Path

import pytest
import torch

from launcher.track.diagnosis import measure_output
from launcher.track.journal import read_journal
from launcher.world import World
from tests.ranks import run_ranks
from tests.small_run import losses, train_run

OUTPUT = torch.randn(8, 5, 3, generator=torch.Generator().manual_seed(0)) * 3 + 100


def test_batch_entropy_is_the_formula() -> None:
    rms, entropy = run_ranks(1, measured)[0]
    sigma = OUTPUT.flatten(1).std(dim=0)  # unbiased, over the samples
    expected = (0.5 * torch.log(math.pi * math.e * sigma**2 + 1)).mean()
    assert entropy == pytest.approx(float(expected), rel=1e-5)
    assert rms == pytest.approx(float(OUTPUT.square().mean().sqrt()), rel=1e-6)


def measured(world: World) -> list[float]:
    own = OUTPUT.chunk(world.size)[world.rank]
    return [float(value) for value in measure_output(own, world)]


def test_samples_of_two_ranks_are_measured_as_one_batch() -> None:
    alone = run_ranks(1, measured)[0]
    for found in run_ranks(2, measured):
        assert found == pytest.approx(alone, rel=1e-6)


def test_a_single_sample_has_no_entropy() -> None:
    def of_one(world: World) -> float:
        return float(measure_output(OUTPUT[:1], world)[1])

    assert math.isnan(run_ranks(1, of_one)[0])


@pytest.mark.parametrize(
    ("ranks", "words"),
    [(2, ("parallel.strategy=fsdp2",)), (2, ("parallel.engine=deepspeed", "parallel.zero_stage=3"))],
)
def test_a_run_that_is_diagnosed_trains_the_same(tmp_path: Path, ranks: int, words: tuple[str, ...]) -> None:
    words = (*words, "train.steps=10", "train.validate_every=5")
    sharp = str("deepspeed" not in words[0]).lower()
    plain = train_run(tmp_path / "plain", *words, ranks=ranks)
    watched = train_run(tmp_path / "watched", *words, f"track.diagnosis={{sharpness: {sharp}}}", ranks=ranks)
    assert losses(watched) == losses(plain)
    found = [
        line for line in read_journal(tmp_path / "watched/journal.jsonl") if line["event"] == "diagnosis"
    ]
    assert [line["step"] for line in found] == [5, 10]
    for line in found:
        assert list(line["activation_rms"]) == list(line["batch_entropy"]) == ["layers.0", "layers.1"]
        assert all(0 < value < 100 for value in line["activation_rms"].values())
        assert ("sharpness" in line) == (sharp == "true")
