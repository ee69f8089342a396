"""Initial loss, overfitting, gradients and states of small models, right ones and wrong ones."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import launcher.check.health as health
from launcher.check.proxy import one_thread
from launcher.recipe.compile import load_recipe
from launcher.recipe.schema import Recipe
from launcher.world import world_on
from models.ssm.ssm_mixer import SSMMixer

ROOT = Path(__file__).parents[3]
WIDTH = 32


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


def recipe(name: str, *overrides: str) -> Recipe:
    return load_recipe(str(ROOT / "recipes" / f"{name}-lm-tiny.yaml"), overrides).recipe


@pytest.mark.parametrize("zero", ["true", "false"])
def test_an_untrained_model_is_as_unsure_as_a_uniform_guess(zero: str) -> None:
    # without zero init the logits have variance 1/m = 1/16: ln V + 1/32 = 1.006 ln V
    subject = recipe("s4d", f"model.readout_zero_init={zero}", "mup={type: mup, base_width: 2}")
    assert health.check_initial_loss(subject, WIDTH, world_on("cpu")).passed


def test_an_overconfident_start_fails() -> None:
    # a readout of variance 1/fan_in gives logits of variance 1: ln V + 1/2
    subject = recipe("s4d", "model.readout_zero_init=false", "mup={type: sp}")
    finding = health.check_initial_loss(subject, WIDTH, world_on("cpu"))
    assert not finding.passed
    assert "too certain" in finding.detail


def test_a_model_learns_two_sequences_by_heart_but_not_at_a_rate_of_nothing() -> None:
    assert health.check_overfit(recipe("s4d"), WIDTH, world_on("cpu")).passed
    assert not health.check_overfit(recipe("s4d", "optim.lr=1e-6"), WIDTH, world_on("cpu")).passed


def test_gradients_reach_every_layer_at_full_depth() -> None:
    finding = health.check_gradient_flow(recipe("hybrid", "model.num_layers=12"), WIDTH, world_on("cpu"))
    assert finding.passed
    assert finding.name == "gradients of 12 layers"


def test_a_vanishing_stack_is_named() -> None:
    # no norm and no path around the branch: each layer shrinks what passes through it
    sizes = {f"layers.{i}.s4d.ssm.C": 10.0 ** (-2 * i) for i in range(4)} | {"readout.weight": 1.0}
    ratio, where = health._largest_ratio(sizes)
    assert ratio == pytest.approx(1e6)
    assert where == "s4d.ssm.C"


def test_states_of_shipped_models_are_stable() -> None:
    for name in ("s4d", "s4"):
        findings = health.check_states(recipe(name), WIDTH, world_on("cpu"))
        assert [finding.passed for finding in findings] == [True, True]
        assert "modes remember" in findings[0].detail
    assert health.check_states(recipe("transformer"), 64, world_on("cpu")) == []


def test_an_eigenvalue_outside_the_circle_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def outside(mixer: SSMMixer) -> torch.Tensor:
        return torch.tensor([0.5, 1.01], dtype=torch.float64)

    monkeypatch.setattr(health, "_moduli", outside)
    assert not health.check_states(recipe("s4d"), WIDTH, world_on("cpu"))[0].passed


def test_the_recurrence_matrix_is_what_a_step_multiplies_by() -> None:
    from launcher.check.proxy import build_proxy, first_batch
    from launcher.check.shrink import shrink_recipe
    from models.residual import residuals

    for name in ("s4", "s4d"):
        shrunk = shrink_recipe(recipe(name), d_model=4, seed=1)
        layers = build_proxy(shrunk, first_batch(shrunk), world_on("cpu")).model.get_submodule("layers")
        assert isinstance(layers, torch.nn.ModuleList)
        mixer = residuals(layers)[0].mixer
        assert isinstance(mixer, SSMMixer)
        with torch.no_grad():
            recurrence = mixer.recurrence()
            x_BHN = torch.randn(3, *recurrence.b.shape, generator=torch.Generator().manual_seed(0))
            _, stepped = recurrence.step(torch.zeros(3, 4), x_BHN)
            product = torch.einsum("hmn,bhn->bhm", health.recurrence_matrix(recurrence), x_BHN.double())
        # sums of 16 float32 products of order one against float64
        torch.testing.assert_close(stepped.double(), product, rtol=1e-5, atol=1e-5)
