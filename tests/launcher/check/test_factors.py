"""Factors derived a second time: every recipe and optimizer agrees, and every planted break is named."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.check.factors import check_factors
from launcher.optim.groups import Group
from launcher.optim.optimizer_table import OPTIMIZERS
from launcher.recipe.compile import load_recipe
from models.facts import Multipliers
from tests.launcher.check.planting import Change, plant, scaled, tiny

ROOT = Path(__file__).parents[3]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
WIDTHS = (128, 256, 512)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipes_have_the_factors_that_follow_from_their_purpose(path: Path) -> None:
    recipe = load_recipe(str(path)).recipe
    if recipe.mup.type == "umup":
        pytest.skip("u-muP's factors are another table")
    found = check_factors(recipe, WIDTHS)
    assert found.passed, found.detail
    assert int(found.value.split(" of ")[1].split()[0]) > 100


@pytest.mark.parametrize("kind", sorted(OPTIMIZERS))
@pytest.mark.parametrize("residual", ["none", "depth_sqrt", "completep"])
def test_every_optimizer_and_depth_rule_agrees(kind: str, residual: str) -> None:
    given = load_recipe(str(ROOT / "recipes" / "hybrid-lm-tiny.yaml"))
    section = given.recipe.optim.model_dump(exclude_unset=True)
    drops = [f"~optim.{key}" for key in section if key not in OPTIMIZERS[kind].section.model_fields]
    pattern = "[attention, s4d]" if OPTIMIZERS[kind].takes_matrices else "[ssd, attention, ffn, s4]"
    words = [
        *drops,
        f"optim.type={kind}",
        f"model.residual={residual}",
        f"model.pattern={pattern}",
        "model.num_layers=4",
        "model.ssd.d_head=32",
    ]
    if OPTIMIZERS[kind].takes_matrices:
        words.append("optim.others={lr: 1e-3}")
    if residual != "none":
        words.append("model.residual_base=1")
    found = check_factors(tiny("hybrid", *words), WIDTHS)
    assert found.passed, found.detail


SGD, LION = "optim={type: sgd, lr: 0.1}", "optim={type: lion, lr: 1e-4}"
MUON, TIED = "optim={type: muon, lr: 1e-2, others: {lr: 1e-3}}", "model.tie_embeddings=true"
UNSCALED = scaled(lr=lambda lr, g: 1.0)
MATRIX_RATE = scaled(lr=lambda lr, g: lr / g)
DOUBLE_BASE = scaled(lr=lambda lr, g: 2 * lr)
BREAKS: list[tuple[str, tuple[str, ...], str, Change, str]] = [
    # (recipe, overrides, parameters, what is wrong, what must be named)
    ("s4d", (), r".*", scaled(weight_decay=lambda d, g: 1.0), "weight_decay"),
    ("transformer", (), r".*", scaled(weight_decay=lambda d, g: 1.0), "weight_decay"),
    ("s4d", (), r".*", scaled(eps=lambda e, g: 1.0), "eps"),
    ("ssd", (), r"layers\.1\..*\.BC\.weight", scaled(eps=lambda e, g: 1.0), "eps"),
    ("s4", (), r"layers\.1\.s4\.output\.weight", DOUBLE_BASE, "lr"),
    ("transformer", (), r"layers\.0\.attention\.key\.weight", DOUBLE_BASE, "lr"),
    ("s4d", (), r"layers\.1\.s4d\.ssm\.log_dt", MATRIX_RATE, "lr"),
    ("s4d", (), r"layers\.0\.s4d\.ssm\.A_log_real", MATRIX_RATE, "lr"),
    ("s4d", (), r"layers\.0\.s4d\.ssm\.A_imag", MATRIX_RATE, "lr"),
    ("s4d", (), r"layers\.0\.s4d\.ssm\.B", MATRIX_RATE, "lr"),
    ("s4d", (), r"layers\.0\.s4d\.ssm\.C", MATRIX_RATE, "lr"),
    ("s4d", (), r"layers\.0\.s4d\.ssm\.D", MATRIX_RATE, "lr"),
    ("s4", (), r"layers\.0\.s4\.ssm\.P", MATRIX_RATE, "lr"),
    ("ssd", (), r"layers\.0\.ssd\.space\.A_log", MATRIX_RATE, "lr"),
    ("ssd", (), r"layers\.0\.ssd\.space\.dt_bias", MATRIX_RATE, "lr"),
    ("ssd", (), r"layers\.0\.ssd\.BC\.weight", UNSCALED, "lr"),
    ("transformer", (), r"layers\.1\.ffn\.up\.bias", MATRIX_RATE, "lr"),
    ("transformer", (), r"layers\.1\.norm\.weight", MATRIX_RATE, "lr"),
    ("transformer", (), r"embedding\.weight", MATRIX_RATE, "lr"),
    ("transformer", (), r"readout\.weight", MATRIX_RATE, "lr"),
    ("transformer", (), r"readout\.weight", scaled(init=lambda i, g: 1.0), "init"),
    ("transformer", (), r"readout\.weight", scaled(forward=lambda f, g: 1.0), "forward"),
    ("transformer", (TIED,), r"embedding\.weight", MATRIX_RATE, "lr"),
    ("transformer", (TIED,), r"embedding\.weight", scaled(forward=lambda f, g: 1.0), "forward"),
    ("hybrid", (SGD,), r".*attention\.query\.weight", MATRIX_RATE, "lr"),
    ("hybrid", (SGD,), r"layers\.0\.norm\.weight", UNSCALED, "lr"),
    ("hybrid", (LION,), r".*attention\.value\.weight", UNSCALED, "lr"),
    ("transformer", (MUON,), r".*attention\.value\.weight", MATRIX_RATE, "lr"),
    ("transformer", (MUON,), r"embedding\.weight", MATRIX_RATE, "lr"),
    ("transformer", ("model.residual=depth_sqrt", "model.residual_base=1"), r"layers\.1\.ffn\.up\.weight",
     scaled(lr=lambda lr, g: 1 / g), "lr"),
    ("transformer", ("model.residual=completep", "model.residual_base=1"), r"layers\.1\.ffn\.up\.bias",
     scaled(eps=lambda e, g: 1 / g), "eps"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "overrides", "which", "change", "what"), BREAKS, ids=[f"{b[0]} {b[2]} {b[4]}" for b in BREAKS]
)
def test_a_planted_break_is_caught_and_named(
    name: str,
    overrides: tuple[str, ...],
    which: str,
    change: Change,
    what: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = tiny(name, *overrides)
    assert check_factors(recipe, WIDTHS).passed, "before anything is broken"
    plant(monkeypatch, which, change)
    found = check_factors(recipe, WIDTHS)
    assert not found.passed
    first = found.detail.split("; ")[0]
    parameter, said = first.split(": ", 1)
    assert re.fullmatch(which, parameter), first
    assert said.startswith(what), first


@pytest.mark.parametrize("what", ["weight_decay", "eps"])
def test_what_the_optimizer_is_not_given_is_caught(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    base = {"weight_decay": 0.1, "eps": 1e-8}[what]
    lost: Callable[[Group], Group] = lambda group: dataclasses.replace(group, **{what: base})  # noqa: E731
    plant(monkeypatch, "", groups=lost)
    found = check_factors(tiny("s4d", "optim.weight_decay=0.1"), WIDTHS)
    assert not found.passed
    assert f"{what} of its group is x 1, not x" in found.detail


def test_a_multiplier_that_the_model_does_not_get_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, "", multipliers=Multipliers())
    found = check_factors(tiny("transformer"), WIDTHS)
    assert "readout.weight: multiplier of the model is x 1, not x" in found.detail
    assert "as if it had no factor" in found.detail


def test_a_wrong_base_is_named_by_its_width(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, r"layers\.1\.s4d\.output\.weight", DOUBLE_BASE)
    recipe = tiny("s4d")
    assert recipe.mup.base_width is not None
    found = check_factors(recipe, WIDTHS)
    assert f"as if its base were {2 * recipe.mup.base_width} wide" in found.detail
