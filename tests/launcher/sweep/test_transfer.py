"""What a sweep says about transfer, on losses whose answer is known."""

import dataclasses
import math
from pathlib import Path

import pytest

from launcher.report.figure import can_draw
from launcher.report.transfer_plot import draw_transfer
from launcher.sweep.results import PointResult
from launcher.sweep.transfer import (
    claim,
    find_transfer,
    find_transfers,
    find_vertex,
    mean_of,
    transfer_lines,
)

RATES = [2.0**k for k in range(-8, 0)]


def result(d_model: int, lr: float, seed: int, loss: float, **changes: object) -> PointResult:
    values = {
        "name": f"{d_model},{lr},{seed}",
        "settings": {},
        "series": "mup",
        "status": "finished" if math.isfinite(loss) else "diverged",
        "d_model": d_model,
        "lr": lr,
        "seed": seed,
        "loss": loss,
        "validation": True,
        "seconds": 1.0,
        "steps": (1, 2),
        "losses": (loss + 1, loss),
    }
    return PointResult(**(values | changes))  # type: ignore[arg-type]


def bowls(centres: dict[int, dict[int, float]], depth: dict[int, float]) -> list[PointResult]:
    """Parabolas in log2 lr: width -> seed -> centre."""
    return [
        result(width, lr, seed, depth[width] + 0.1 * (math.log2(lr) - centre) ** 2)
        for width, seeds in centres.items()
        for seed, centre in seeds.items()
        for lr in RATES
    ]


@pytest.mark.parametrize("centre", [-5.0, -4.4, -3.75])
def test_the_vertex_of_a_parabola_is_found_exactly(centre: float) -> None:
    curve = {lr: 2 + 0.3 * (math.log2(lr) - centre) ** 2 for lr in RATES}
    assert find_vertex(curve) == pytest.approx(centre, abs=1e-12)


def test_the_vertex_is_found_on_an_uneven_grid_too() -> None:
    curve = {lr: 2 + 0.3 * (math.log2(lr) + 4.4) ** 2 for lr in (2**-6.0, 2**-4.0, 2**-3.5, 2**-1.0)}
    assert find_vertex(curve) == pytest.approx(-4.4, abs=1e-12)


def test_an_optimum_at_the_edge_or_beside_a_divergence_is_the_grid_point() -> None:
    falling = {lr: 3 - math.log2(lr) for lr in RATES}
    assert find_vertex(falling) == math.log2(RATES[-1])
    cliff = {0.25: 3.0, 0.5: 2.0, 1.0: math.inf}
    assert find_vertex(cliff) == -1.0


def test_the_shift_is_paired_by_seed() -> None:
    centres = {32: {1: -5.0, 2: -4.6, 3: -4.2}, 128: {1: -4.5, 2: -4.2, 3: -3.7}}
    transfer = find_transfer("mup", bowls(centres, {32: 2.0, 128: 1.8}))
    assert transfer is not None
    # shifts 0.5, 0.4, 0.5: mean 7/15, standard error sd / sqrt(3) with sd = 0.1 / sqrt(3); t(2) = 4.303
    assert transfer.shift.value == pytest.approx(7 / 15)
    assert transfer.shift.half_width == pytest.approx(4.303 * 0.1 / 3)
    assert transfer.range_octaves == pytest.approx(7 / 15)
    assert transfer.wider_is_better
    assert "optimum of lr moves +0.47 +- 0.14" in transfer_lines(transfer)[0]


def test_wider_is_worse_is_seen_at_the_rate_that_would_be_transferred() -> None:
    centres = {32: {1: -4.0, 2: -4.0}, 64: {1: -7.0, 2: -7.0}}
    transfer = find_transfer("sp", bowls(centres, {32: 2.0, 64: 1.9}))
    assert transfer is not None
    # at 2^-4 the wider one stands 3 octaves off: 1.9 + 0.9 against 2.0, and 0.9 above its own best
    assert not transfer.wider_is_better
    assert transfer.worse_steps == (2, 2)
    assert transfer.regret == pytest.approx(0.9)


def test_a_diverged_width_is_worse_and_does_not_hide_the_others() -> None:
    results = bowls({32: {1: -4.0}}, {32: 2.0}) + [result(64, lr, 1, math.inf) for lr in RATES]
    transfer = find_transfer("sp", results)
    assert transfer is not None
    assert not transfer.wider_is_better
    assert [optimum.d_model for optimum in transfer.optima] == [32]


def test_one_seed_has_no_uncertainty() -> None:
    assert math.isnan(mean_of([1.0]).half_width)
    assert mean_of([1.0, math.inf]).value == math.inf


def test_two_rates_make_no_curve() -> None:
    assert find_transfer("mup", [result(32, lr, 1, 2.0) for lr in (0.1, 0.2)]) is None


@pytest.mark.skipif(not can_draw(), reason="matplotlib is not installed")
def test_the_picture_is_drawn_with_gaps_where_runs_diverged(tmp_path: Path) -> None:
    results = bowls({32: {1: -5.0, 2: -4.6}, 64: {1: -4.0, 2: -4.1}}, {32: 2.0, 64: 1.8})
    results = [r if r.lr < 0.5 else result(r.d_model, r.lr, r.seed, math.inf) for r in results]
    transfer = find_transfer("mup", results)
    assert transfer is not None
    path = draw_transfer(tmp_path / "t.png", [transfer, transfer], "validation loss")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_the_interval_of_a_shift_is_that_of_resampled_seeds() -> None:
    centres = {32: dict.fromkeys(range(1, 6), -4.0), 128: {1: -3.8, 2: -3.6, 3: -3.7, 4: -3.9, 5: -3.5}}
    transfer = find_transfer("mup", bowls(centres, {32: 2.0, 128: 1.8}))
    assert transfer is not None
    low, high = transfer.shift_interval
    # the vertex of a mean of parabolas is the mean of their centres: +0.3, its resampled deviation 0.063
    assert low == pytest.approx(0.3 - 1.96 * 0.063, abs=0.03)
    assert high == pytest.approx(0.3 + 1.96 * 0.063, abs=0.03)
    assert transfer.optima[0].interval == pytest.approx((-4.0, -4.0))
    assert "at most one octave: yes" in "\n".join(transfer_lines(transfer))


@pytest.mark.parametrize(
    ("shifts", "verdict"),
    [((1.5, 1.6, 1.7), "NO"), ((0.1, 1.0, 2.0), "not decided"), ((0.1, 0.2, 0.3), "yes")],
)
def test_the_claim_is_held_against_the_interval(shifts: tuple[float, ...], verdict: str) -> None:
    centres = {32: dict.fromkeys((1, 2, 3), -5.0), 512: {s + 1: -5.0 + x for s, x in enumerate(shifts)}}
    transfer = find_transfer("mup", bowls(centres, {32: 2.0, 512: 1.8}))
    assert transfer is not None
    assert claim(transfer) == f"at most one octave: {verdict}"


def test_another_key_than_the_rate_has_its_transfer_at_the_best_of_the_others() -> None:
    results = [
        result(width, 1.0, 1, 2.0 + (math.log2(output) - 1) ** 2 + penalty, name=f"{width},{output},{rate}")
        for width in (32, 64)
        for output in (0.5, 1.0, 2.0, 4.0)
        for rate, penalty in (("1e-3", 0.0), ("1e-2", 0.5))
    ]
    results = [
        dataclasses.replace(
            one,
            settings={
                "model.d_model": str(one.d_model),
                "mup.multipliers.output": one.name.split(",")[1],
                "optim.lr": one.name.split(",")[2],
            },
            lr=float(one.name.split(",")[2]),
            series=f"output={one.name.split(',')[1]}",
        )
        for one in results
    ]
    (found,) = find_transfers(results)
    assert (found.key, found.series) == ("mup.multipliers.output", "optim.lr=1e-3")
    assert [optimum.grid_value for optimum in found.optima] == [2.0, 2.0]
    assert "optimum of output moves +0.00" in transfer_lines(found)[0]
