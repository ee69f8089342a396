"""No false alarms: recipes that are right pass the coordinate check and the factors, whatever they choose.

The last ten are SGD's. Shampoo is not among them: its eigendecompositions take minutes (docs/check.md).
"""

import random
from pathlib import Path

import pytest

from launcher.check.coordinates import Setting, fails, fit_slopes, measure_coordinates
from launcher.check.factors import check_factors, expected_exponents, falling_names
from launcher.check.proxy import one_thread
from launcher.check.shrink import choose_lr_amplification, choose_widths
from launcher.errors import UserError
from launcher.recipe.compile import load_recipe
from launcher.recipe.schema import Recipe
from launcher.world import world_on

ROOT = Path(__file__).parents[3]
COUNT, WITH_SGD, SEEDS = 50, 40, (1, 2, 3, 4, 5)
"""Variations; from which one on they are SGD's; seeds of each."""
SGD = "{type: sgd, lr: 0.02}"
OPTIMIZERS = (
    "{type: adamw, lr: 4e-3, weight_decay: 0.1}",
    "{type: adamw, lr: 1e-3}",
    "{type: adam, lr: 4e-3}",
    "{type: lion, lr: 4e-4}",
    "{type: muon, lr: 1e-2, others: {lr: 4e-3}}",
)
MODELS = {
    "s4d": ("model.s4d.d_state=8", "model.s4d.n_ssm=2", "model.s4d.gate=true", "model.s4d.final_act=gelu"),
    "s4": ("model.s4.d_state=8", "model.s4.n_ssm=2", "model.s4.final_act=gelu"),
    "transformer": ("model.attention={num_heads: 4}", "model.attention={num_heads: 2}", "model.ffn.expand=2"),
    "hybrid": ("model.s4d.d_state=8", "model.attention={num_heads: 4}"),
}
COMMON = (
    "model.norm=layer",
    "model.norm=rms",
    "model.residual=depth_sqrt",
    "model.readout_zero_init=false",
    "model.tie_embeddings=true",
    "mup.weight_decay=independent",
    "mup.base_width=128",
)


def variation(seed: int) -> tuple[str, Recipe]:
    """A recipe that is right, and how it differs from a shipped one."""
    generator = random.Random(seed)
    while True:
        name = generator.choice(sorted(MODELS))
        words = [generator.choice(MODELS[name]), *generator.sample(COMMON, 2)]
        if any(word.startswith("model.attention=") for word in words):
            words = [word.replace("model.attention={", "model.attention={d_head: null, ") for word in words]
        words.append(f"optim={generator.choice(OPTIMIZERS) if seed < WITH_SGD else SGD}")
        single = ("parallel.strategy=single", "cluster.nproc_per_node=1")
        try:
            loaded = load_recipe(str(ROOT / "recipes" / f"{name}-lm-tiny.yaml"), [*words, *single])
        except UserError:
            continue  # two that exclude each other
        return f"{name} {' '.join(words)}", loaded.recipe


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(COUNT))
def test_a_right_recipe_raises_no_alarm(seed: int) -> None:
    described, recipe = variation(seed)
    widths = choose_widths(recipe)
    found = check_factors(recipe, widths)
    assert found.passed, f"{described}: {found.detail}"
    setting = Setting(
        recipe=recipe, widths=widths, seeds=SEEDS, lr_amplification=choose_lr_amplification(recipe)
    )
    with one_thread():
        slopes = fit_slopes(
            measure_coordinates(setting, world_on("cpu")),
            recipe.mup.type,
            expected_exponents(recipe, widths),
            falling_names(recipe),
        )
    alarms = [f"{s.module} {s.measure} step {s.step}: {s.slope:+.3f}" for s in slopes if fails(s)]
    assert not alarms, f"{described}: {alarms[:8]}"


def test_variations_differ_and_cover_every_model_and_optimizer() -> None:
    described = [variation(seed)[0] for seed in range(COUNT)]
    assert len(set(described)) >= COUNT - 3
    for word in (*MODELS, "adamw", "lion", "muon", "num_heads: 4"):
        assert any(word in one for one in described), word
