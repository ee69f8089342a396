"""What the plan says of optimizer state: by optimizer, cut over ranks or whole on each."""

import json
import math

import pytest

from launcher.plan.plan import Plan, make_plan
from launcher.plan.worlds import planned_ranks
from launcher.recipe.schema import Recipe
from tests.launcher.optim.test_groups import TYPES
from tests.small_run import small_recipe


def planned(recipe: Recipe) -> Plan:
    return make_plan(recipe, planned_ranks(recipe))


def plan(kind: str, *overrides: str) -> Plan:
    optim = json.dumps({"type": kind, "lr": 1e-2, **TYPES[kind]})
    return planned(small_recipe(f"optim={optim}", "model.pattern=[ffn]", *overrides))


@pytest.mark.parametrize(
    ("kind", "numbers"), [("sgd", 1), ("adagrad", 1), ("lion", 1), ("adam", 2), ("adamw", 2), ("smorms3", 3)]
)
def test_moments_are_counted_per_parameter(kind: str, numbers: int) -> None:
    found = plan(kind)
    assert found.memory.optimizer == 4 * numbers * found.parameters.num_parameters
    assert found.checkpoint_bytes == 4 * (1 + numbers) * found.parameters.num_parameters


def test_sgd_without_momentum_keeps_nothing() -> None:
    assert plan("sgd", "optim.momentum=0").memory.optimizer == 0


def test_muon_keeps_one_moment_of_its_matrices_and_two_of_the_rest() -> None:
    found = plan("muon")
    matrices = [
        name for group in found.parameters.groups if group.update != "adam" for name in group.parameters
    ]
    assert len(matrices) == 4
    inside = sum(math.prod(found.parameters.shapes[name]) for name in matrices)
    assert found.memory.optimizer == 4 * (2 * found.parameters.num_parameters - inside)


@pytest.mark.parametrize("kind", ["shampoo", "soap"])
def test_preconditioners_are_whole_on_every_rank(kind: str) -> None:
    alone = plan(kind)
    spread = plan(kind, "parallel.strategy=fsdp2", "cluster.nproc_per_node=2")
    # d_model 16, ffn of 64: two matrices a layer of sides 16 and 64, an average and what is made of it each
    preconditioners = 4 * 4 * 2 * (16**2 + 64**2)
    whole = preconditioners + (4 * 4 * 16 * 64 if kind == "soap" else 0)
    assert spread.memory.optimizer == (alone.memory.optimizer - whole) / 2 + whole
    assert spread.memory.parameters == alone.memory.parameters / 2
    assert spread.checkpoint_bytes == alone.checkpoint_bytes


@pytest.mark.parametrize(
    ("layers", "numbers"),
    [
        ("[s4d]", 2 * 16 * 8),  # two layers, d_model 16, d_state 8
        ("[s4]", 2 * 16 * 64),
        ("[dss]", 2 * 16 * 128),  # 64 complex modes
        ("[momentum, ffn]", 2 * 2 * 8 * 8 + 2 * 8),  # two heads of 8: two sums of products and one of keys
    ],
)
def test_carried_states_are_counted_and_spread_over_the_ranks(layers: str, numbers: int) -> None:
    options = (f"model.pattern={layers}", "model.momentum={d_head: 8}")
    plain = planned(small_recipe(*options))
    carries = planned(small_recipe(*options, "train.truncated_bptt=true"))
    assert carries.memory.carried == 4 * 8 * numbers  # eight sequences
    assert carries.memory.total == plain.memory.total + carries.memory.carried
    assert carries.checkpoint_bytes == plain.checkpoint_bytes + 4 * 8 * numbers
    spread = ("parallel.strategy=ddp", "cluster.nproc_per_node=2")
    halves = planned(small_recipe(*options, "train.truncated_bptt=true", *spread))
    assert halves.memory.carried == carries.memory.carried / 2


def test_carrying_a_state_costs_what_its_formula_says() -> None:
    plain, carries = (planned(small_recipe(f"train.truncated_bptt={on}")) for on in ("false", "true"))
    # two layers of 16 channels, N = 8: 6 N for the outputs, 2 N for the next state
    assert carries.flops_per_token - plain.flops_per_token == pytest.approx(2 * 16 * 8 * 8)
