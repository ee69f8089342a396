"""Jumps are found where they are, measured in what is usual there, and noise is none."""

import math
from pathlib import Path

import numpy as np
import pytest

from launcher.report.spikes import LEAST, data_step_of, find_spikes, jumps
from launcher.track.history import read_history
from launcher.track.journal import Journal
from tests.launcher.track.test_history import step_fields


def noise(count: int, scale: float = 0.02, seed: int = 0) -> np.ndarray:
    return 2 + np.random.default_rng(seed).normal(0, scale, count)


def test_noise_alone_has_no_jumps() -> None:
    _, sizes = jumps(noise(20_000))
    assert sizes.max() < LEAST


@pytest.mark.parametrize("place", [9, 200, 777, 999])
def test_a_jump_is_found_where_it_is(place: int) -> None:
    values = noise(1000)
    values[place] += 1
    before, sizes = jumps(values)
    assert int(np.argmax(sizes)) == place
    assert sizes[place] > LEAST
    assert before[place] == pytest.approx(2, abs=0.05)


def test_a_jump_is_measured_by_the_noise_around_it() -> None:
    # 0.5 is nothing while the noise is 0.5, and much when it is 0.01.
    values = np.concatenate([noise(1000, 0.5), noise(1000, 0.01)])
    values[500] = 2.5
    values[1500] = 2.5
    _, sizes = jumps(values)
    assert sizes[500] < LEAST < sizes[1500]


def test_a_value_that_is_not_finite_is_the_largest_jump_and_hides_none() -> None:
    values = noise(1000)
    values[300], values[301], values[305] = math.nan, math.inf, 4
    _, sizes = jumps(values)
    assert np.isinf(sizes[[300, 301]]).all()
    assert LEAST < sizes[305] < math.inf


@pytest.mark.parametrize("values", [np.zeros(0), np.ones(5), np.ones(500)])
def test_constants_and_short_curves_have_no_jumps(values: np.ndarray) -> None:
    assert not jumps(values)[1].any()


def test_a_value_that_is_not_finite_is_found_in_a_short_run_too() -> None:
    assert jumps(np.array([2.0, math.nan, 1.9]))[1].tolist() == [0, math.inf, 0]


def test_a_jump_names_its_data_and_the_layer_that_grew_most(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path, 1)
    journal.write("begin", {"from_step": 0, "data_step": 0})
    for step, loss in enumerate(noise(60), start=1):
        layers = {"layers.0": 1.0 + 0.5 * (step == 41), "layers.1": 0.01 * (1 + 6 * (step == 41))}
        fields = step_fields(step, float(loss) + (step == 41)) | {"grad_norm_layer": layers, "grad_norm": 1.0}
        if step == 31:
            journal.write("rollback", {"from_step": 30, "step": 30, "data_step": 35})
        journal.write("step", fields)
    journal.close()
    (spike,) = find_spikes(read_history(path))
    assert (spike.curve, spike.step, spike.data_step) == ("loss", 41, 45)
    assert spike.layer == "layers.1, x 7"


def test_data_of_a_step_follows_the_last_way_it_was_trained() -> None:
    events = [
        {"event": "begin", "from_step": 0, "data_step": 0},
        {"event": "rollback", "from_step": 10, "data_step": 25},
        {"event": "begin", "from_step": 20, "data_step": 35},
    ]
    assert [data_step_of(events, step) for step in (1, 10, 11, 20, 21)] == [0, 9, 25, 34, 35]
    assert data_step_of([], 3) is None
