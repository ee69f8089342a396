"""Initial values depend on (seed, name, facts, factor) and on nothing else."""

import torch
from torch import nn

from launcher.mup.init import init_parameters
from models.facts import ParamFacts, Role
from models.inits import constant, normal

FACTS = {
    "weight": ParamFacts(role=Role.MATRIX, init=normal(1.0), decay=True),
    "bias": ParamFacts(role=Role.VECTOR, init=constant(2.0), decay=False),
}


def filled(model: nn.Linear, scales: dict[str, float], seed: int = 5) -> nn.Linear:
    init_parameters(model, FACTS, scales, seed)
    return model


def test_values_are_a_function_of_seed_and_name() -> None:
    one, two = (filled(nn.Linear(4, 3), {"weight": 1.0, "bias": 1.0}) for _ in range(2))
    other = filled(nn.Linear(4, 3), {"weight": 1.0, "bias": 1.0}, seed=6)
    assert torch.equal(one.weight, two.weight)
    assert not torch.equal(one.weight, other.weight)


def test_values_do_not_depend_on_the_global_generator() -> None:
    torch.manual_seed(0)
    one = filled(nn.Linear(4, 3), {"weight": 1.0, "bias": 1.0})
    before = torch.get_rng_state()
    two = filled(nn.Linear(4, 3), {"weight": 1.0, "bias": 1.0})
    init_parameters(two, FACTS, {"weight": 1.0, "bias": 1.0}, 5)
    assert torch.equal(one.weight, two.weight)
    assert before.shape == torch.get_rng_state().shape


def test_the_factor_multiplies_the_standard_value() -> None:
    plain = filled(nn.Linear(4, 3), {"weight": 1.0, "bias": 1.0})
    scaled = filled(nn.Linear(4, 3), {"weight": 0.5, "bias": 1.0})
    assert torch.equal(scaled.weight, plain.weight * 0.5)
    assert torch.equal(scaled.bias, torch.full((3,), 2.0))


def test_a_model_built_on_meta_gets_the_same_values() -> None:
    with torch.device("meta"):
        model = nn.Linear(4, 3)
    empty = filled(model.to_empty(device="cpu"), {"weight": 1.0, "bias": 1.0})
    assert torch.equal(empty.weight, filled(nn.Linear(4, 3), {"weight": 1.0, "bias": 1.0}).weight)
