"""Batch entropy and the soft nearest neighbour loss are their papers' sums, also where naive forms fail."""

import math

import pytest
import torch
from torch import nn

from launcher.mup.init import init_parameters
from models.auxiliary import ALONE, batch_entropy, soft_neighbours
from models.build_model import build_model, model_facts
from models.config import ClassifierConfig, LMConfig
from models.facts import match_facts
from models.loss import scores

ONE = torch.tensor(1.0)


def test_batch_entropy_is_the_mean_over_units_of_their_gaussian_s() -> None:
    torch.manual_seed(0)
    output_BLH = 3 * torch.randn(5, 4, 3) + 1000  # a large mean must not cancel
    variances = output_BLH.double().flatten(1).var(0)  # unbiased
    expected = torch.log(math.pi * math.e * variances + 1).mean() / 2
    assert float(batch_entropy(output_BLH, ALONE)) == pytest.approx(float(expected), rel=1e-5)
    assert math.isnan(float(batch_entropy(output_BLH[:1], ALONE)))


def naive(x_BH: torch.Tensor, y_B: torch.Tensor, inverse: float) -> torch.Tensor:
    """One pair after the other, in double precision, as the paper writes it."""
    losses = []
    for i in range(len(x_BH)):
        weights = [torch.exp(-(x_BH[i] - x_BH[k]).square().mean() * inverse) for k in range(len(x_BH))]
        others = [k for k in range(len(x_BH)) if k != i]
        same = [weights[k] for k in others if y_B[k] == y_B[i]]
        if same:
            losses.append(-torch.log(sum(same, torch.zeros(())) / sum(weights[k] for k in others)))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("inverse", [0.3, 2.0])
def test_soft_neighbours_equal_the_sums_of_the_paper_with_their_gradient(inverse: float) -> None:
    torch.manual_seed(1)
    x_BH = torch.randn(9, 6, requires_grad=True)
    y_B = torch.tensor([0, 1, 0, 2, 1, 0, 3, 1, 0])  # 2 and 3 are classes of one
    reference = x_BH.detach().double().requires_grad_()
    found = soft_neighbours(x_BH, y_B, torch.tensor(inverse))
    expected = naive(reference, y_B, inverse)
    assert float(found) == pytest.approx(float(expected), rel=1e-5)
    found.backward()
    expected.backward()
    torch.testing.assert_close(x_BH.grad.double(), reference.grad, rtol=1e-4, atol=1e-6)


def test_soft_neighbours_hold_where_every_neighbour_is_far() -> None:
    # exp(-10 000) is 0 in any float: the sums as written are 0 / 0.
    x_BH = torch.tensor([[0.0], [100.0], [101.0], [200.0]], requires_grad=True)
    found = soft_neighbours(x_BH, torch.tensor([0, 1, 0, 1]), ONE)
    # Its own class less the nearest: 101^2 - 100^2, 100^2 - 1^2, 101^2 - 1^2, 100^2 - 99^2.
    expected = (201 + 9_999 + 10_200 + 199) / 4
    assert float(found) == pytest.approx(expected, rel=1e-5)
    found.backward()
    assert x_BH.grad.isfinite().all()


def test_soft_neighbours_of_classes_of_one_are_nothing() -> None:
    x_BH = torch.randn(4, 3, requires_grad=True)
    found = soft_neighbours(x_BH, torch.arange(4), ONE)
    found.backward()
    assert float(found) == 0.0
    assert not x_BH.grad.any()


def test_a_temperature_means_the_same_at_every_width() -> None:
    x_BH, y_B = torch.randn(8, 6), torch.tensor([0, 1] * 4)
    wide = soft_neighbours(x_BH.repeat(1, 5), y_B, ONE)
    assert float(wide) == pytest.approx(float(soft_neighbours(x_BH, y_B, ONE)), rel=1e-5)


def build(config: LMConfig | ClassifierConfig) -> nn.Module:
    model = build_model(config)
    facts = match_facts(dict(model.named_parameters()), model_facts(config))
    init_parameters(model, facts, dict.fromkeys(facts, 1.0), 1)
    return model


def test_a_language_model_s_loss_has_the_factor_where_a_gradient_is_wanted() -> None:
    section = {"weight": 0.25, "target": 0.5, "least_target": 0.4}
    config = LMConfig.model_validate(
        {"type": "lm", "vocab_size": 11, "d_model": 8, "num_layers": 2, "batch_entropy": section}
    )
    model = build(config)
    x, y = torch.randint(11, (2, 3, 6), generator=torch.Generator().manual_seed(1))
    outputs: list[torch.Tensor] = []
    for layer in model.layers:
        layer.register_forward_hook(lambda _module, _given, output: outputs.append(output.detach()))
    loss = model(x, targets=y)[0]
    entropies = [float(batch_entropy(output, ALONE)) for output in outputs]
    plain = float(scores(model(x).flatten(0, 1), y.flatten())[0].detach())
    factor = 1 + 0.25 * sum((entropy - 0.5) ** 2 for entropy in entropies) / 2
    assert factor > 1.001, "else this shows nothing"
    assert float(loss) == pytest.approx(plain * factor, rel=1e-5)
    loss.backward()
    expected = [plain * 0.25 * (0.5 - entropy) for entropy in entropies]
    assert model.batch_entropy.target.grad.tolist() == pytest.approx(expected, rel=1e-4)
    with torch.no_grad():
        assert float(model(x, targets=y)[0]) == pytest.approx(plain, rel=1e-5)


@pytest.mark.parametrize("num_sequences", [1, 2])
def test_a_classifier_s_loss_has_its_neighbours_added(num_sequences: int) -> None:
    config = ClassifierConfig.model_validate(
        {
            "type": "classifier",
            "num_classes": 2,
            "vocab_size": 11,
            "encoder": {"type": "token"},
            "d_model": 8,
            "num_layers": 1,
            "num_sequences": num_sequences,
            "soft_neighbours": {"weight": -0.5, "temperature": 0.25},
            "batch_entropy": {"weight": 0.1},
        }
    )
    model = build(config)
    shape = (4, 6) if num_sequences == 1 else (4, 2, 6)
    x, y = torch.randint(11, shape, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 0, 1])
    seen: dict[str, torch.Tensor] = {}
    model.soft_neighbours.register_forward_hook(
        lambda _m, given, output: seen.update(x=given[0], loss=output)
    )
    model.batch_entropy.register_forward_hook(lambda _m, _given, output: seen.update(factor=output))
    loss = model(x, targets=y)[0]
    with torch.no_grad():
        plain = float(model(x, targets=y)[0])
    added = -0.5 * float(soft_neighbours(seen["x"].detach(), y, torch.tensor(4.0)))
    assert float(seen["loss"]) == pytest.approx(added, rel=1e-5)
    assert float(loss) == pytest.approx(plain * float(seen["factor"]) + 4 * added, rel=1e-5)
    loss.backward()
    assert model.soft_neighbours.log_inverse_temperature.grad.item() != 0.0
