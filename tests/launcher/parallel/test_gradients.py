"""Norms, clipping and the size of an update, of one rank's whole pieces. Over ranks: test_global_batch.py."""

import pytest
import torch

from launcher.parallel.gradients import UpdateMeasure, clip_gradients

NAMES = ("w", "b")


def pieces() -> list[torch.Tensor]:
    """Two gradients of norms 3 and 4: 5 together."""
    return [torch.tensor([[0.0, 3.0], [0.0, 0.0]]), torch.tensor([-4.0])]


@pytest.mark.parametrize("limit", [None, 5.0, 100.0])
def test_gradients_at_or_below_the_limit_are_left_as_they_are(limit: float | None) -> None:
    gradients = pieces()
    norms = clip_gradients(NAMES, gradients, limit, group=None)
    assert all(torch.equal(a, b) for a, b in zip(gradients, pieces(), strict=True))
    assert (float(norms.total), float(norms.coefficient), norms.per_parameter.tolist()) == (5, 1, [3, 4])


def test_gradients_above_the_limit_are_scaled_to_it() -> None:
    gradients = pieces()
    norms = clip_gradients(NAMES, gradients, 2.5, group=None, measure=True)
    assert norms.sums is not None
    assert norms.sums.tolist() == [3, 4], "before clipping"
    assert [gradient.norm().item() for gradient in gradients] == [1.5, 2]
    assert (float(norms.total), float(norms.coefficient)) == (5, 0.5)
    assert norms.per_parameter.tolist() == [3, 4], "before clipping"


def test_an_update_is_measured_against_the_weights_before_it() -> None:
    weights = pieces()
    before = UpdateMeasure(weights, group=None)
    weights[0] += 1
    weights[1] *= 1.5
    norms = before.finish()
    assert norms.weight.tolist() == [3, 4]
    assert norms.update.tolist() == [2, 2]
