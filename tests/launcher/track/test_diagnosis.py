"""Measurements of layers are over all samples, wherever those are, and change nothing of the training."""

import math
from pathlib import Path

import pytest
import torch

from launcher.data.dataset import Batch
from launcher.parallel.across import across_ranks
from launcher.track.diagnosis import measure_output
from launcher.track.journal import read_journal
from launcher.world import World
from models.auxiliary import ALONE, soft_neighbours
from tests.ranks import run_ranks
from tests.small_run import losses, train_run

OUTPUT = torch.randn(8, 5, 3, generator=torch.Generator().manual_seed(0)) * 3 + 100


def test_batch_entropy_is_the_formula() -> None:
    rms, entropy, _ = run_ranks(1, measured)[0]
    sigma = OUTPUT.flatten(1).std(dim=0)  # unbiased, over the samples
    expected = (0.5 * torch.log(math.pi * math.e * sigma**2 + 1)).mean()
    assert entropy == pytest.approx(float(expected), rel=1e-5)
    assert rms == pytest.approx(float(OUTPUT.square().mean().sqrt()), rel=1e-6)


LABELS, LENGTHS = torch.tensor([0, 1, 0, 2, 1, 0, 2, 0]), torch.tensor([5, 4, 3, 2, 1, 5, 5, 2])
TEXT = Batch(torch.zeros(8, 5), torch.zeros(8, 5, dtype=torch.long))


def measured(world: World) -> list[float]:
    own, y, lengths = (all_of.chunk(world.size)[world.rank] for all_of in (OUTPUT, LABELS, LENGTHS))
    found = measure_output(own, Batch(own, y, lengths), across_ranks(world))
    return [float(value) for value in found.values()]


def test_samples_of_two_ranks_are_measured_as_one_batch() -> None:
    alone = run_ranks(1, measured)[0]
    for found in run_ranks(2, measured):
        assert found == pytest.approx(alone, rel=1e-6)


def test_a_single_sample_has_no_entropy() -> None:
    assert math.isnan(float(measure_output(OUTPUT[:1], TEXT, ALONE)["batch_entropy"]))


def test_neighbours_are_of_means_over_valid_positions_and_text_has_none() -> None:
    means_BH = torch.stack([row[:length].mean(0) for row, length in zip(OUTPUT, LENGTHS, strict=True)])
    apart = torch.cdist(means_BH, means_BH).square().mul(1 / 3)
    mean_distance = apart.sum() / (8 * 7)
    expected = float(soft_neighbours(means_BH, LABELS, 1 / mean_distance))
    assert run_ranks(1, measured)[0][2] == pytest.approx(expected, rel=1e-3)
    assert measure_output(OUTPUT, TEXT, ALONE).keys() == {"activation_rms", "batch_entropy"}
    near = LABELS.float()[:, None, None].expand(8, 5, 3) * 100
    assert float(measure_output(near, Batch(near, LABELS), ALONE)["soft_neighbours"]) < expected


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
