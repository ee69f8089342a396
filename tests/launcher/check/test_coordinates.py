"""The coordinate check on broken parametrisations, injected here: the product has no switch for them."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import pytest

import launcher.plan.plan as plan_module
import models.attention as attention_module
from launcher.check.coordinates import (
    BOUND,
    Setting,
    Slope,
    Value,
    fails,
    fit_slopes,
    is_judged,
    largest_difference,
    measure_coordinates,
)
from launcher.check.proxy import build_proxy, first_batch, one_thread
from launcher.errors import UserError
from launcher.mup.config import MupConfig
from launcher.mup.scaling import Scaling
from launcher.optim.config import OptimConfig
from launcher.optim.groups import make_groups
from launcher.plan.parameters import Parameters, describe_parameters
from launcher.plan.plan import make_plan
from launcher.plan.worlds import planned_ranks
from launcher.recipe.compile import load_recipe
from launcher.recipe.schema import Recipe
from launcher.world import world_on
from models.config import ModelConfig
from models.facts import Multipliers, Role

ROOT = Path(__file__).parents[3]
WIDTHS = (32, 64, 128)
"""Narrower than the product's, to be quick: effects of finite width stay below 0.2, wrong rules above 0.5."""

Change = Callable[[Role, float, Scaling], Scaling]


def recipe(name: str = "s4d", *overrides: str) -> Recipe:
    return load_recipe(str(ROOT / "recipes" / f"{name}-lm-tiny.yaml"), overrides).recipe


def slopes_of(
    subject: Recipe, widths: tuple[int, ...] = WIDTHS, seeds: tuple[int, ...] = (1, 2)
) -> list[Slope]:
    setting = Setting(recipe=subject, widths=widths, seeds=seeds, lr_amplification=1.0)
    with one_thread():
        return fit_slopes(measure_coordinates(setting, world_on("cpu")), subject.mup.type, {})


def break_rules(
    monkeypatch: pytest.MonkeyPatch, change: Change, multipliers: Multipliers | None = None
) -> None:
    """Plan as usual, then change the scaling of every parameter by its role and width."""

    def describe(model: ModelConfig, mup: MupConfig, optim: OptimConfig, *, seq_len: int) -> Parameters:
        right = describe_parameters(model, mup, optim, seq_len=seq_len)
        scalings = {
            name: change(fact.role, right.width_multipliers[name].fan_in, right.scalings[name])
            for name, fact in right.facts.items()
        }
        groups = make_groups(right.facts, right.shapes, scalings, optim)
        return dataclasses.replace(
            right, scalings=scalings, groups=groups, multipliers=multipliers or right.multipliers
        )

    monkeypatch.setattr(plan_module, "describe_parameters", describe)


def worst(slopes: list[Slope], module: str, measure: str) -> float:
    return max((s.slope for s in slopes if (s.module, s.measure) == (module, measure)), key=abs)


def test_the_right_rules_are_flat_and_every_module_is_seen() -> None:
    slopes = slopes_of(recipe())
    assert max(abs(s.slope) for s in slopes if is_judged(s)) < 0.2
    seen = {s.module for s in slopes if s.measure == "total"}
    assert {"embedding", "layers.0.norm", "layers.1.s4d.ssm", "layers.1.s4d.output", "readout"} <= seen
    assert {s.step for s in slopes if s.measure == "total"} == {2, 3, 4}  # the first has a zero readout
    assert {s.module for s in slopes if s.measure == "state"} == {"layers.0.s4d", "layers.1.s4d"}


def test_a_readout_that_is_not_scaled_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def change(role: Role, m: float, scaling: Scaling) -> Scaling:
        return dataclasses.replace(scaling, init=1.0, forward=1.0) if role is Role.READOUT else scaling

    break_rules(monkeypatch, change, Multipliers())
    slopes = slopes_of(recipe())
    # n coordinates that all moved with the gradient add up to n: exponent 1, less what saturates
    assert worst(slopes, "readout", "own") > 0.5
    assert any(fails(s) for s in slopes if s.module == "readout")


def test_state_space_tensors_sent_through_the_matrix_rule_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    def change(role: Role, m: float, scaling: Scaling) -> Scaling:
        return dataclasses.replace(scaling, lr=1 / m) if role is Role.STATE else scaling

    break_rules(monkeypatch, change)
    slopes = slopes_of(recipe())
    # Adam's change is the rate: exponent -1. In the whole change what comes from below hides it.
    assert worst(slopes, "layers.1.s4d.ssm", "own") < -0.8
    assert abs(worst(slopes, "layers.1.s4d.ssm", "total")) < 0.3


def test_a_hidden_rate_that_is_not_scaled_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def change(role: Role, m: float, scaling: Scaling) -> Scaling:
        return dataclasses.replace(scaling, lr=1.0) if role is Role.MATRIX else scaling

    break_rules(monkeypatch, change)
    assert worst(slopes_of(recipe()), "layers.0.s4d", "total") > 0.5


def test_an_attention_scale_of_the_square_root_fails_by_its_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    heads = recipe("transformer", "model.attention.num_heads=4", "model.attention.d_head=null")
    widths = (128, 256, 512)
    assert not [slope for slope in slopes_of(heads, widths) if fails(slope)]
    monkeypatch.setattr(attention_module, "logit_scale", lambda config, d_head: d_head**-0.5)
    slopes = slopes_of(heads, widths)
    assert worst(slopes, "layers.0.attention.logits", "total") > 0.3
    # Softmax and the sum over values hide it from every module.
    assert not [slope for slope in slopes if fails(slope) and not slope.module.endswith("logits")]


def test_the_standard_parametrisation_fails() -> None:
    slopes = slopes_of(recipe("s4d", "mup={type: sp}"))
    assert worst(slopes, "layers.0.s4d", "total") > 0.5
    assert worst(slopes, "readout", "own") > 0.5


def test_a_delta_that_forgot_the_hidden_width_of_ffn_is_refused_before_anything_is_trained(
    tmp_path: Path,
) -> None:
    subject = recipe("transformer")
    shapes = make_plan(subject, planned_ranks(subject)).parameters.base_shapes
    # what a delta model with the base's d_ffn would give: that dimension does not differ, hence is finite
    forgot = {
        name: [None if "ffn" in name and dim == 4 * 64 else dim for dim in dims]
        for name, dims in shapes.items()
    }
    path = tmp_path / "forgot.bsh"
    path.write_text(
        "".join(f"{name}: {str(dims).replace('None', 'null')}\n" for name, dims in forgot.items())
    )
    broken = recipe("transformer", f"mup={{type: mup, base_shapes: {path}}}")
    with pytest.raises(UserError, match=r"ffn\.up\.weight: .*1 growing dimension"):
        slopes_of(broken)


def test_a_module_used_twice_is_measured_at_each_use() -> None:
    import torch

    from launcher.check.probe import Recorder

    class Twice(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(self.inner(x))

    model = Twice()
    recorder = Recorder(model)
    recording = recorder.start()
    model(torch.ones(1, 3))
    recorder.stop()
    assert list(recording.outputs) == ["inner", "inner#2"]
    assert not torch.equal(recording.outputs["inner"], recording.outputs["inner#2"])


def test_exponents_are_those_of_a_power_law() -> None:
    values = [
        Value("total", 2, "m", width, seed, seed * width**0.5) for width in (16, 32, 64) for seed in (1, 2)
    ]
    values += [Value("total", step, "still", width, 1, 0.0) for step in (2, 4) for width in (16, 32)]
    values += [Value("init", 0, "readout", width, 1, width**-0.5) for width in (16, 32)]
    found = {(slope.module, slope.step): slope for slope in fit_slopes(values, "mup", {})}
    assert found["m", 2].slope == pytest.approx(0.5)
    assert fails(found["m", 2])
    assert not fails(found["still", 2])  # keys move one step after zero queries
    assert fails(found["still", 4])  # a module that should move and does not
    assert not fails(found["readout", 0])  # initial logits may shrink with width


def test_what_fades_with_width_passes_and_what_stays_fails() -> None:
    sizes = {
        "fades": (1.0, 1.6, 1.8, 1.8),
        "stays": (1.0, 1.4, 2.0, 2.8),
        "overflows": (math.inf, 1.0, 1.0, 1.0),
    }
    values = [
        Value("total", 2, name, width, 1, size)
        for name, found in sizes.items()
        for width, size in zip((128, 256, 512, 1024), found, strict=True)
    ]
    found = {slope.module: slope for slope in fit_slopes(values, "mup", {})}
    assert found["fades"].slope > BOUND
    assert not fails(found["fades"])
    assert fails(found["stays"])
    assert fails(found["overflows"])


def test_the_largest_difference_says_where() -> None:
    whole = [Value("total", 2, "a", 16, 1, 1.0), Value("total", 2, "b", 16, 1, 2.0)]
    cut = [Value("total", 2, "a", 16, 1, 1.0), Value("total", 2, "b", 16, 1, 2.2)]
    difference, place = largest_difference(whole, cut)
    assert difference == pytest.approx(0.1)
    assert place == "b, width 16, step 2"


def test_embeddings_of_unit_scaled_models_are_measured_from_the_half_power_it_wants() -> None:
    values = [Value("own", 2, "embedding", width, 1, width**-0.5) for width in (16, 32, 64)]
    assert not fails(fit_slopes(values, "umup", {})[0])
    assert fails(fit_slopes(values, "mup", {})[0])


def test_a_record_has_the_logits_and_what_state_spaces_put_out() -> None:
    given = recipe("s4d", "parallel.strategy=single", "cluster.nproc_per_node=1")
    batch = first_batch(given)
    recording, loss = build_proxy(given, batch, world_on("cpu")).record()
    shape = (*batch.x.shape, given.model.vocab_size)
    assert recording.outputs["readout"].shape == shape
    inner = recording.outputs["layers.0.s4d.ssm"]
    assert inner.shape == (batch.x.shape[0], given.model.d_model, batch.x.shape[1])
    assert math.isfinite(loss)
