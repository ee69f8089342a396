"""Groups: every parameter once, base rates by its facts, factors by its width."""

from typing import Any

import pytest
from pydantic import TypeAdapter

from launcher.mup.scaling import Scaling
from launcher.optim.config import OptimConfig
from launcher.optim.groups import Group, choose_update, make_groups, state_size
from models.facts import ParamFacts, Role
from models.inits import constant

ONE = constant(1.0)
FACTS = {
    "embedding": ParamFacts(role=Role.EMBEDDING, init=ONE, decay=False),
    "up": ParamFacts(role=Role.MATRIX, init=ONE, decay=True),
    "conv": ParamFacts(role=Role.MATRIX, init=ONE, decay=True),
    "bias": ParamFacts(role=Role.VECTOR, init=ONE, decay=False),
    "dt": ParamFacts(role=Role.STATE, init=ONE, decay=False, ssm="dt"),
    "C": ParamFacts(role=Role.STATE, init=ONE, decay=False, ssm="C"),
    "readout": ParamFacts(role=Role.READOUT, init=ONE, decay=True),
}
SHAPES = {
    "embedding": (9, 8),
    "up": (8, 8),
    "conv": (8, 8, 3),
    "bias": (8,),
    "dt": (8,),
    "C": (1, 8, 2, 2),
    "readout": (9, 8),
}
PLAIN = dict.fromkeys(FACTS, Scaling())
TYPES: dict[str, dict[str, Any]] = {
    "sgd": {},
    "adam": {},
    "adamw": {},
    "adagrad": {},
    "smorms3": {},
    "lion": {},
    "muon": {"others": {"lr": 3e-3, "weight_decay": 0.2}},
    "shampoo": {"others": {"lr": 3e-3, "weight_decay": 0.2}},
    "soap": {"others": {"lr": 3e-3, "weight_decay": 0.2}},
}


def config(kind: str, **fields: object) -> OptimConfig:
    return TypeAdapter(OptimConfig).validate_python({"type": kind, "lr": 1e-2, **TYPES[kind], **fields})


def by_parameter(groups: tuple[Group, ...]) -> dict[str, Group]:
    return {name: group for group in groups for name in group.parameters}


@pytest.mark.parametrize("kind", TYPES)
def test_every_parameter_is_in_exactly_one_group(kind: str) -> None:
    groups = make_groups(FACTS, SHAPES, PLAIN, config(kind))
    names = [name for group in groups for name in group.parameters]
    assert sorted(names) == sorted(FACTS)
    assert len({group.name for group in groups}) == len(groups)


@pytest.mark.parametrize("kind", ["sgd", "adamw", "lion", "muon", "shampoo", "soap"])
def test_only_weights_decay(kind: str) -> None:
    """The mup package decays biases, gains and state-space tensors as well."""
    groups = by_parameter(make_groups(FACTS, SHAPES, PLAIN, config(kind, weight_decay=0.1)))
    assert {name for name, group in groups.items() if group.weight_decay} == {"up", "conv", "readout"}


@pytest.mark.parametrize("kind", ["adam", "adagrad", "smorms3"])
def test_optimizers_without_decoupled_decay_have_none(kind: str) -> None:
    assert {group.weight_decay for group in make_groups(FACTS, SHAPES, PLAIN, config(kind))} == {0.0}


def test_adamw_decays_unless_told_not_to() -> None:
    """MuAdamW without the argument silently trains with decay 0."""
    assert by_parameter(make_groups(FACTS, SHAPES, PLAIN, config("adamw")))["up"].weight_decay == 0.1


@pytest.mark.parametrize("kind", TYPES)
def test_state_space_rates_are_capped_and_c_is_not(kind: str) -> None:
    groups = by_parameter(make_groups(FACTS, SHAPES, PLAIN, config(kind)))
    assert groups["dt"].lr == 1e-3
    assert groups["C"].lr == groups["bias"].lr > 1e-3


def test_a_cap_acts_on_the_peak_before_the_width_factor() -> None:
    scalings = PLAIN | {"dt": Scaling(lr=4.0)}  # SGD at four times the base width
    groups = by_parameter(make_groups(FACTS, SHAPES, scalings, config("sgd")))
    assert groups["dt"].lr == 4e-3


def test_each_state_space_tensor_has_rates_of_its_own() -> None:
    ssm = {"dt": {"lr": 0.02, "lr_cap": None, "weight_decay": 0.3}, "C": {"lr_mult": 0.1}}
    groups = by_parameter(make_groups(FACTS, SHAPES, PLAIN, config("adamw", ssm=ssm)))
    assert (groups["dt"].lr, groups["dt"].weight_decay) == (0.02, 0.3)
    assert groups["C"].lr == pytest.approx(1e-3)


def test_factors_multiply_rate_decay_and_eps() -> None:
    scalings = PLAIN | {"up": Scaling(lr=0.25, weight_decay=4.0, eps=0.5)}
    up = by_parameter(make_groups(FACTS, SHAPES, scalings, config("adamw", weight_decay=0.1)))["up"]
    assert (up.lr, up.weight_decay, up.eps, up.mup_lr_multiplier) == (2.5e-3, 0.4, 5e-9, 0.25)


@pytest.mark.parametrize(("kind", "update"), [("muon", "spectral"), ("shampoo", "shampoo"), ("soap", "soap")])
def test_matrix_optimizers_take_hidden_matrices_and_adamw_the_rest(kind: str, update: str) -> None:
    groups = by_parameter(make_groups(FACTS, SHAPES, PLAIN, config(kind)))
    assert {name for name, group in groups.items() if group.update == update} == {"up"}
    assert {group.update for name, group in groups.items() if name != "up"} == {"adam"}
    assert groups["up"].lr == 1e-2
    assert groups["conv"].lr == groups["embedding"].lr == 3e-3


def test_muon_of_fixed_rms_has_a_rule_of_its_own() -> None:
    assert choose_update(FACTS["up"], SHAPES["up"], config("muon", scale="rms")) == "unit_rms"


def test_an_unknown_state_space_tensor_is_an_error_that_lists_the_known() -> None:
    facts = {"E": ParamFacts(role=Role.STATE, init=ONE, decay=False, ssm="E")}
    with pytest.raises(ValueError, match=r"'E'; optim.ssm has dt, A, B, P, C, D"):
        make_groups(facts, {"E": (8,)}, {"E": Scaling()}, config("adamw"))


def test_state_is_counted_by_optimizer() -> None:
    """tests/launcher/optim/test_build.py compares these with what the optimizers really keep."""
    vectors = {kind: state_size(config(kind), "adam", (8,)).sharded / 8 for kind in TYPES}
    assert vectors == {
        "sgd": 1,
        "adam": 2,
        "adamw": 2,
        "adagrad": 1,
        "smorms3": 3,
        "lion": 1,
        "muon": 2,
        "shampoo": 2,
        "soap": 2,
    }
    assert state_size(config("sgd", momentum=0.0), "sgd", (8,)).sharded == 0
