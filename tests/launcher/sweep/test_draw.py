"""Random draws: the same for the same seed, even in octaves, at all widths and seeds."""

import math
from statistics import fmean

import pytest

from launcher.errors import UserError
from launcher.sweep.axes import Axis, read_axes
from launcher.sweep.draw import Draws, combinations


def test_more_draws_add_to_the_same_ones() -> None:
    axes = read_axes(["optim.lr=1e-4..1e-1", "mup.init_scale=0.5,1,2"])
    few, many = (combinations(axes, Draws(count)) for count in (5, 20))
    assert many[: len(few)] == few
    assert combinations(axes, Draws(5, seed=1)) != few


def test_a_range_is_drawn_evenly_over_octaves() -> None:
    (axis,) = read_axes(["optim.lr=1e-4..1e-1"])
    logs = [math.log10(float(value)) for (value,) in combinations([axis], Draws(400))]
    assert min(logs) >= -4
    assert max(logs) <= -1
    # the mean of 400 uniform draws over 3 decades has standard error 0.043
    assert fmean(logs) == pytest.approx(-2.5, abs=4 * 0.043)


def test_whole_ends_give_whole_numbers() -> None:
    (axis,) = read_axes(["model.s4d.d_state=4..64"])
    values = [value for (value,) in combinations([axis], Draws(30))]
    assert all(value.isdigit() and 4 <= int(value) <= 64 for value in values)


def test_every_draw_is_tried_at_all_widths_and_seeds() -> None:
    axes = read_axes(["model.d_model=32,64", "optim.lr=1e-4..1e-1", "seed=1,2"])
    found = combinations(axes, Draws(3))
    assert len(found) == 12
    assert {(width, seed) for width, lr, seed in found if lr == found[0][1]} == {
        (width, seed) for width in ("32", "64") for seed in ("1", "2")
    }


def test_paths_with_dots_are_values_and_reversed_ranges_are_refused() -> None:
    assert read_axes(["data.source.url=../a,../b"]) == (Axis("data.source.url", ("../a", "../b")),)
    with pytest.raises(UserError, match="smaller one first"):
        read_axes(["optim.lr=1e-1..1e-4"])
