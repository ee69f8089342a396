"""Breaks planted in one parameter, found by training: the parameter is named, and by which power it is off.

What training cannot show (decay, eps, a base that is wrong by a constant) is in test_factors.py.
"""

import dataclasses
import re

import pytest

import launcher.plan.plan as plan_module
import models.attention as attention_module
from launcher.check.coordinates import OF_PARAMETERS, Setting, Slope, fit_slopes, measure_coordinates
from launcher.check.factors import expected_exponents, falling_names
from launcher.check.proxy import one_thread
from launcher.check.run_check import judge_parameters, judge_slopes
from launcher.check.shrink import choose_lr_amplification
from launcher.mup.config import MupConfig
from launcher.optim.config import OptimConfig
from launcher.plan.parameters import Parameters, describe_parameters
from launcher.recipe.schema import Recipe
from launcher.world import world_on
from models.config import ModelConfig
from tests.launcher.check.planting import Change, plant, scaled, tiny

WIDTHS = (64, 128, 256, 512)
WIDTHS_SSD = (128, 256, 512, 1024)
"""Of its tensors with one number a head, as few as 8 at width 64, a median is noise."""
SGD = "optim={type: sgd, lr: 0.02}"
LION = "optim={type: lion, lr: 4e-4}"
MUON = "optim={type: muon, lr: 1e-2, others: {lr: 4e-3}}"
TIED = "model.tie_embeddings=true"

AS_MATRIX, UNSCALED = scaled(lr=lambda _, growth: 1 / growth), scaled(lr=lambda *_: 1.0)
BREAKS = [
    ("s4d", (), r"layers\.0\.s4d\.ssm\.log_dt", AS_MATRIX, -1.0),
    ("s4d", (), r"layers\.0\.s4d\.ssm\.A_log_real", AS_MATRIX, -1.0),
    ("s4d", (), r"layers\.1\.s4d\.ssm\.A_imag", AS_MATRIX, -1.0),
    ("s4d", (), r"layers\.1\.s4d\.ssm\.B", AS_MATRIX, -1.0),
    ("s4d", (), r"layers\.0\.s4d\.ssm\.C", AS_MATRIX, -1.0),
    ("s4d", (), r"layers\.0\.s4d\.ssm\.D", AS_MATRIX, -1.0),
    ("s4d", (), r"layers\.0\.s4d\.output\.weight", UNSCALED, 1.0),
    ("s4d", (), r"layers\.0\.norm\.weight", AS_MATRIX, -1.0),
    ("s4d", (LION,), r"layers\.1\.s4d\.output\.bias", AS_MATRIX, -1.0),
    ("s4", (), r"layers\.0\.s4\.ssm\.P", AS_MATRIX, -1.0),
    ("s4", (), r"layers\.1\.s4\.ssm\.log_dt", AS_MATRIX, -1.0),
    ("ssd", (), r"layers\.0\.ssd\.space\.A_log", AS_MATRIX, -1.0),
    ("ssd", (), r"layers\.0\.ssd\.space\.dt_bias", AS_MATRIX, -1.0),
    ("ssd", (), r"layers\.1\.ssd\.space\.D", AS_MATRIX, -1.0),
    # so fast that four steps turn back on themselves: half of its power is seen
    ("ssd", (), r"layers\.0\.ssd\.BC\.weight", UNSCALED, 0.5),
    ("ssd", (), r"layers\.1\.ssd\.input_conv\.weight", AS_MATRIX, -1.0),
    ("transformer", (), r"layers\.1\.ffn\.up\.bias", AS_MATRIX, -1.0),
    ("transformer", (), r"layers\.1\.norm\.bias", AS_MATRIX, -1.0),
    ("transformer", (), r"embedding\.weight", AS_MATRIX, -1.0),
    ("transformer", (), r"readout\.weight", AS_MATRIX, -1.0),
    ("transformer", (TIED,), r"embedding\.weight", AS_MATRIX, -1.0),
    ("transformer", (SGD,), r"layers\.0\.attention\.key\.weight", AS_MATRIX, -1.0),
    ("transformer", (SGD,), r"layers\.0\.norm\.weight", UNSCALED, -1.0),
    ("transformer", (MUON,), r"layers\.0\.attention\.value\.weight", AS_MATRIX, -1.0),
    ("transformer", (MUON,), r"embedding\.weight", AS_MATRIX, -1.0),
    ("hybrid", (), r"layers\.\d\.attention\.query\.weight", UNSCALED, 1.0),
    ("hybrid", (LION,), r"layers\.0\.s4d\.ssm\.B", AS_MATRIX, -1.0),
    ("hybrid", (SGD,), r"layers\.0\.s4d\.ssm\.D", UNSCALED, -1.0),
]
SAMPLE = (0, 16)
"""Of those, in `make test`."""


def slopes_of(recipe: Recipe, widths: tuple[int, ...] = WIDTHS) -> list[Slope]:
    seeds: tuple[int, ...] = (1,)
    if "ssd" in recipe.model.pattern:
        widths, seeds = WIDTHS_SSD, (1, 2, 3)
    amplification = choose_lr_amplification(recipe)
    setting = Setting(recipe=recipe, widths=widths, seeds=seeds, lr_amplification=amplification)
    with one_thread():
        values = measure_coordinates(setting, world_on("cpu"))
    return fit_slopes(values, recipe.mup.type, expected_exponents(recipe, widths), falling_names(recipe))


def of_parameters(slopes: list[Slope]) -> list[Slope]:
    return [slope for slope in slopes if slope.measure in OF_PARAMETERS]


def cases() -> list[object]:
    slow = (pytest.mark.slow, pytest.mark.breaks)
    return [
        pytest.param(*one, id=f"{one[0]} {' '.join(one[1])} {one[2]}", marks=() if at in SAMPLE else slow)
        for at, one in enumerate(BREAKS)
    ]


@pytest.mark.parametrize(("name", "overrides", "which", "change", "power"), cases())
def test_a_break_in_one_parameter_is_named_with_its_power(
    name: str,
    overrides: tuple[str, ...],
    which: str,
    change: Change,
    power: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plant(monkeypatch, which, change)
    widths = (32, 64, 128) if name == "s4d" and not overrides else WIDTHS
    found = judge_parameters(of_parameters(slopes_of(tiny(name, *overrides), widths)))
    assert not found.passed, found.value
    named = {line.split(" ")[0]: line for line in found.detail.split("; ")}
    broken = [line for parameter, line in named.items() if re.fullmatch(which, parameter)]
    assert broken, found.detail
    assert f"as if its rate had another width^{power:+g}" in broken[0], broken[0]


@pytest.mark.slow
@pytest.mark.breaks
@pytest.mark.parametrize("name", ["s4d", "s4", "ssd", "transformer", "hybrid"])
@pytest.mark.parametrize("optim", [(), (SGD,), (LION,)], ids=["adamw", "sgd", "lion"])
def test_what_the_breaks_are_planted_in_is_right(name: str, optim: tuple[str, ...]) -> None:
    found = judge_parameters(of_parameters(slopes_of(tiny(name, *optim))))
    assert found.passed, found.detail


@pytest.mark.slow
@pytest.mark.breaks
def test_a_hidden_matrix_that_starts_too_large_shows_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, r"layers\.1\.ffn\.up\.weight", scaled(init=lambda _, growth: growth**0.5))
    found = judge_slopes("", [s for s in slopes_of(tiny("transformer")) if s.measure == "init"])
    assert not found.passed
    assert "layers.1.ffn.up (init +0.5" in found.detail


@pytest.mark.slow
@pytest.mark.breaks
def test_a_tied_readout_without_its_multiplier_shows_in_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    right = describe_parameters

    def describe(model: ModelConfig, mup: MupConfig, optim: OptimConfig, *, seq_len: int) -> Parameters:
        parameters = right(model, mup, optim, seq_len=seq_len)
        multipliers = dataclasses.replace(parameters.multipliers, readout=1.0)
        return dataclasses.replace(parameters, multipliers=multipliers)

    monkeypatch.setattr(plan_module, "describe_parameters", describe)
    heads = tiny("transformer", TIED)
    assert (
        not judge_parameters(of_parameters(slopes_of(heads))).passed
        or not judge_slopes("", [s for s in slopes_of(heads) if s.measure == "total"]).passed
    )


@pytest.mark.slow
@pytest.mark.breaks
def test_logits_over_the_root_of_a_growing_head_show(monkeypatch: pytest.MonkeyPatch) -> None:
    heads = tiny("transformer", "model.attention.num_heads=4", "model.attention.d_head=null")
    monkeypatch.setattr(attention_module, "logit_scale", lambda config, d_head: d_head**-0.5)
    found = judge_slopes("", [s for s in slopes_of(heads, (128, 256, 512, 1024)) if s.measure == "total"])
    assert not found.passed
    assert "attention.logits" in found.detail
