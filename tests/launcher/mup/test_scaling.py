"""The table of rules: 1 at the base, the published powers away from it, a source in every row."""

import itertools

import pytest

from launcher.errors import UserError
from launcher.mup.base_shapes import WidthMultiplier
from launcher.mup.scaling import (
    DECAY_POWER,
    DEPTH_POWER,
    MUP_LAYERS,
    MUP_UPDATES,
    Scaling,
    check_roles,
    check_updates,
    scale_mup,
)
from models.facts import Role

BASE = WidthMultiplier(fan_in=1.0, fan_out=1.0, num_infinite=2)
WIDE = WidthMultiplier(fan_in=4.0, fan_out=4.0, num_infinite=2)
TALL = WidthMultiplier(fan_in=4.0, fan_out=16.0, num_infinite=2)
ROWS = [(update, role) for update, rows in MUP_UPDATES.items() for role in rows]


def factors(scaling: Scaling) -> tuple[float, ...]:
    return (
        scaling.init,
        scaling.forward,
        scaling.gradient,
        scaling.lr,
        scaling.weight_decay,
        scaling.eps,
    )


@pytest.mark.parametrize(("update", "role"), ROWS)
def test_every_factor_is_exactly_one_at_the_base(update: str, role: Role) -> None:
    for decay, depth_rule in itertools.product(DECAY_POWER, DEPTH_POWER):
        scaling = scale_mup(role, BASE, update, decay=decay, depth_rule=depth_rule, depth=1.0)
        assert set(factors(scaling)) == {1.0}


@pytest.mark.parametrize(("update", "role"), ROWS)
def test_every_row_has_a_source(update: str, role: Role) -> None:
    assert MUP_LAYERS[role].source
    assert MUP_UPDATES[update][role].source


# (role, width): init, forward, lr, decay of Tensor Programs V, Table 8, relative to the base
TABLE_8 = {
    "adam": {
        (Role.EMBEDDING, WIDE): (1, 1, 1, 1),
        (Role.VECTOR, WIDE): (1, 1, 1, 1),
        (Role.STATE, WIDE): (1, 1, 1, 1),
        (Role.READOUT, WIDE): (2, 1 / 4, 1, 1),
        (Role.MATRIX, WIDE): (1, 1, 1 / 4, 4),
        (Role.MATRIX, TALL): (1, 1, 1 / 4, 4),
    },
    "sgd": {
        (Role.EMBEDDING, WIDE): (1, 1, 4, 1 / 4),
        (Role.VECTOR, WIDE): (1, 1, 4, 1 / 4),
        (Role.STATE, WIDE): (1, 1, 4, 1 / 4),
        (Role.READOUT, WIDE): (2, 1 / 4, 4, 1 / 4),
        (Role.MATRIX, WIDE): (1, 1, 1, 1),
        (Role.MATRIX, TALL): (1, 1, 4, 1 / 4),
    },
}


@pytest.mark.parametrize("update", ["adam", "sgd"])
def test_rules_are_those_of_table_8(update: str) -> None:
    for (role, width), expected in TABLE_8[update].items():
        scaling = scale_mup(role, width, update)
        assert (scaling.init, scaling.forward, scaling.lr, scaling.weight_decay) == expected


@pytest.mark.parametrize("update", ["sign", "smorms3"])
def test_rates_of_updates_whose_size_is_fixed_are_adams(update: str) -> None:
    for role in Role:
        assert scale_mup(role, WIDE, update).lr == scale_mup(role, WIDE, "adam").lr


def test_eps_falls_as_the_gradients_do() -> None:
    """Every gradient of a tensor that grows falls as 1/width (TP-V, appendix J): measured -0.6 to -1.05."""
    assert {scale_mup(role, WIDE, "adam").eps for role in Role} == {1 / 4}
    assert scale_mup(Role.MATRIX, TALL, "adam").eps == 1 / 16
    assert {scale_mup(role, WIDE, "smorms3").eps for role in Role} == {1 / 16}


@pytest.mark.parametrize(
    ("update", "wide", "tall"),
    [
        ("spectral", 1, 1),
        ("unit_rms", 1 / 2, 1 / 2),
        ("shampoo", 1, 2),
        ("soap", 1 / 4, 1 / 4),
    ],
)
def test_rates_of_matrix_updates(update: str, wide: float, tall: float) -> None:
    assert scale_mup(Role.MATRIX, WIDE, update).lr == wide
    assert scale_mup(Role.MATRIX, TALL, update).lr == tall


@pytest.mark.parametrize(("decay", "factor"), [("constant", 4.0), ("sqrt", 2.0), ("independent", 1.0)])
def test_decay_policies(decay: str, factor: float) -> None:
    assert scale_mup(Role.MATRIX, WIDE, "adam", decay=decay).weight_decay == factor
    assert scale_mup(Role.VECTOR, WIDE, "adam", decay=decay).weight_decay == 1.0


@pytest.mark.parametrize(
    ("update", "rule", "lr", "eps"),
    [
        ("adam", "none", 1, 1),
        ("adam", "depth_sqrt", 1 / 2, 1 / 2),
        ("adam", "completep", 1, 1 / 4),
        ("smorms3", "completep", 1, 1 / 16),
        ("sgd", "none", 1, 1),
        ("sgd", "depth_sqrt", 1, 1),
        ("sgd", "completep", 4, 1),
        ("sign", "depth_sqrt", 1 / 2, 1),
        ("spectral", "depth_sqrt", 1 / 2, 1),
        ("spectral", "completep", 1, 1),
        ("soap", "completep", 1, 1 / 4),
        ("shampoo", "completep", 1, 1 / 16),
    ],
)
def test_depth_rules_at_four_times_the_base_depth(update: str, rule: str, lr: float, eps: float) -> None:
    scaling = scale_mup(Role.MATRIX, BASE, update, depth_rule=rule, depth=4.0)
    assert (scaling.lr, scaling.eps) == (lr, eps)
    assert scaling.weight_decay == 1.0


@pytest.mark.parametrize(
    ("role", "num_infinite"),
    [(Role.MATRIX, 1), (Role.MATRIX, 3), (Role.EMBEDDING, 2), (Role.READOUT, 2), (Role.STATE, 2)],
)
def test_a_role_with_the_wrong_number_of_growing_dimensions_is_refused(role: Role, num_infinite: int) -> None:
    with pytest.raises(UserError, match=rf"w: is a {role} parameter with {num_infinite} growing dimension"):
        check_roles({"w": role}, {"w": WidthMultiplier(fan_in=2.0, fan_out=2.0, num_infinite=num_infinite)})


def test_muon_of_fixed_rms_is_refused_where_the_sides_grow_differently() -> None:
    check_updates({"w": "unit_rms"}, {"w": WIDE})
    check_updates({"w": "spectral"}, {"w": TALL})
    with pytest.raises(UserError, match="w: grows 4 x in fan_in and 16 x in fan_out"):
        check_updates({"w": "unit_rms"}, {"w": TALL})
