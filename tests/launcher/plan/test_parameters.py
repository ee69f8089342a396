"""From a model's config to every parameter's base shape, factors and group."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter

from launcher.errors import UserError
from launcher.mup.base_shapes import check_finite
from launcher.mup.bsh import dump_base_shapes
from launcher.mup.config import MupConfig
from launcher.mup.init import init_parameters
from launcher.optim.build_optimizer import build_optimizer
from launcher.optim.config import OptimConfig, RoleRates
from launcher.plan.parameters import Parameters, describe_parameters
from models.build_model import build_model
from models.config import LMConfig, S4DConfig
from models.facts import Role

TYPES: dict[str, dict[str, Any]] = {
    "sgd": {"weight_decay": 0.1},
    "adam": {},
    "adamw": {},
    "adagrad": {},
    "smorms3": {},
    "lion": {},
    "muon": {"others": {"lr": 3e-3}},
    "shampoo": {"others": {"lr": 3e-3}},
    "soap": {"others": {"lr": 3e-3}},
}


def model(d_model: int, **s4d: Any) -> LMConfig:
    return LMConfig(
        type="lm",
        vocab_size=11,
        d_model=d_model,
        num_layers=2,
        pattern=("s4d", "ffn"),
        s4d=S4DConfig(d_state=4, **s4d),
        readout_zero_init=False,
    )


def optim(kind: str = "adamw") -> OptimConfig:
    return TypeAdapter(OptimConfig).validate_python({"type": kind, "lr": 1e-2, **TYPES[kind]})


def mup(**fields: Any) -> MupConfig:
    return MupConfig(type="mup", **({"base_width": 8} | fields))


def train(config: LMConfig, parameters: Parameters, kind: str) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses of five steps, and the parameters after them."""
    torch.manual_seed(0)
    net = build_model(config, parameters.multipliers)
    init_parameters(net, parameters.facts, {n: s.init for n, s in parameters.scalings.items()}, seed=3)
    optimizer = build_optimizer(dict(net.named_parameters()), parameters.groups, optim(kind))
    tokens = torch.randint(0, 11, (4, 13), generator=torch.Generator().manual_seed(1))
    losses = []
    for _ in range(5):
        logits = net(tokens[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses, {name: p.detach() for name, p in net.named_parameters()}


@pytest.mark.parametrize("kind", TYPES)
def test_at_the_base_width_mup_trains_as_sp_bit_for_bit(kind: str) -> None:
    config = model(8)
    losses, values = train(
        config, describe_parameters(config, MupConfig(type="sp"), optim(kind), seq_len=32), kind
    )
    mup_losses, mup_values = train(config, describe_parameters(config, mup(), optim(kind), seq_len=32), kind)
    assert mup_losses == losses
    assert losses[-1] < losses[0]
    assert all(torch.equal(mup_values[name], value) for name, value in values.items())


@pytest.mark.parametrize("kind", TYPES)
def test_away_from_the_base_width_it_does_not(kind: str) -> None:
    config = model(16)
    losses, _ = train(
        config, describe_parameters(config, MupConfig(type="sp"), optim(kind), seq_len=32), kind
    )
    assert train(config, describe_parameters(config, mup(), optim(kind), seq_len=32), kind)[0] != losses


def test_a_tensor_is_infinite_in_every_width_like_dimension_and_finite_in_the_state() -> None:
    shapes = describe_parameters(model(32), mup(), optim(), seq_len=32).base_shapes
    assert shapes["embedding.weight"] == (None, 8)
    assert shapes["layers.1.ffn.up.weight"] == (32, 8)
    assert shapes["readout.weight"] == (None, 8)
    (name,) = [name for name in shapes if name.endswith(".C")]
    assert sorted(dim for dim in shapes[name] if dim is not None) == [8]


def test_shared_copies_are_finite_and_own_ones_are_not() -> None:
    """TECHNIQUES 4.2: n_ssm constant in width makes A and B finite; C, D and dt stay one per channel."""
    widths = describe_parameters(model(32, n_ssm=2), mup(), optim(), seq_len=32).width_multipliers
    infinite = {
        name.rsplit(".", 1)[1]: width.num_infinite for name, width in widths.items() if ".ssm." in name
    }
    assert infinite == {"log_dt": 1, "A_log_real": 0, "A_imag": 0, "B": 0, "C": 1, "D": 1}
    own = describe_parameters(model(32), mup(), optim(), seq_len=32).width_multipliers
    assert {width.num_infinite for name, width in own.items() if ".ssm." in name} == {1}


def test_state_space_tensors_never_go_through_the_matrix_rule() -> None:
    parameters = describe_parameters(model(32), mup(), optim(), seq_len=32)
    for name, fact in parameters.facts.items():
        if fact.role is Role.STATE:
            assert parameters.scalings[name].lr == parameters.scalings[name].weight_decay == 1.0


def test_decay_policy_comes_from_the_recipe() -> None:
    factors = {
        policy: describe_parameters(model(32), mup(weight_decay=policy), optim(), seq_len=32)
        .scalings["layers.1.ffn.up.weight"]
        .weight_decay
        for policy in ("constant", "sqrt", "independent")
    }
    assert factors == {"constant": 4.0, "sqrt": 2.0, "independent": 1.0}


def test_base_shapes_of_another_depth_name_the_parameters(tmp_path: Path) -> None:
    deep = model(8).model_copy(update={"num_layers": 4})
    path = tmp_path / "deep.bsh"
    path.write_text(dump_base_shapes(describe_parameters(deep, mup(), optim(), seq_len=32).base_shapes))
    with pytest.raises(UserError) as error:
        describe_parameters(model(8), mup(base_width=None, base_shapes=str(path)), optim(), seq_len=32)
    places = {problem.place for problem in error.value.problems}
    assert "layers.3.ffn.up.weight" in places
    assert all(place.startswith(("layers.2.", "layers.3.")) for place in places)


def test_base_shapes_from_a_file_are_those_of_the_base_width(tmp_path: Path) -> None:
    built = describe_parameters(model(32), mup(), optim(), seq_len=32)
    path = tmp_path / "base.bsh"
    path.write_text(dump_base_shapes(built.base_shapes))
    read = describe_parameters(model(32), mup(base_width=None, base_shapes=str(path)), optim(), seq_len=32)
    assert read.base_shapes_hash == built.base_shapes_hash
    assert read.scalings == built.scalings


def test_a_dimension_that_grows_only_between_base_and_target_is_refused() -> None:
    with pytest.raises(UserError, match=r"w: has shape \(16, 8\), and \(8, 8\) at the base width"):
        check_finite({"w": (16, 8)}, {"w": (8, 8)}, {"w": (None, 8)})


@pytest.mark.parametrize("kind", TYPES)
def test_a_tied_table_is_an_embedding_whose_output_is_divided_by_the_width(kind: str) -> None:
    """mup gives it the initial std sqrt(width); the table's values and Adam rates must not depend on
    width."""
    tied = model(32).model_copy(update={"tie_embeddings": True})
    parameters = describe_parameters(tied, mup(), optim(kind), seq_len=32)
    scaling = parameters.scalings["embedding.weight"]
    assert scaling.init == 1.0
    assert parameters.multipliers.readout == 1 / 4
    assert scaling.lr == (4.0 if kind == "sgd" else 1.0)


def test_tied_at_the_base_width_is_sp_bit_for_bit() -> None:
    config = model(8).model_copy(update={"tie_embeddings": True})
    losses, _ = train(config, describe_parameters(config, MupConfig(type="sp"), optim(), seq_len=32), "adamw")
    assert train(config, describe_parameters(config, mup(), optim(), seq_len=32), "adamw")[0] == losses


@pytest.mark.parametrize("residual", ["none", "depth_sqrt", "completep"])
@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_at_the_base_depth_every_depth_rule_is_sp_bit_for_bit(residual: str, kind: str) -> None:
    config = model(8).model_copy(update={"residual": residual, "residual_base": 2})
    plain, _ = train(
        model(8), describe_parameters(model(8), MupConfig(type="sp"), optim(kind), seq_len=32), kind
    )
    assert train(config, describe_parameters(config, mup(), optim(kind), seq_len=32), kind)[0] == plain


def test_depth_changes_rates_inside_the_stack_only() -> None:
    config = model(8).model_copy(update={"residual": "depth_sqrt", "residual_base": 2, "num_layers": 8})
    scalings = describe_parameters(config, mup(), optim(), seq_len=32).scalings
    assert {name: scaling.lr for name, scaling in scalings.items()} == {
        name: 0.5 if name.startswith("layers.") else 1.0 for name in scalings
    }


def test_a_rate_of_a_role_is_given_to_its_groups_alone() -> None:
    rates = RoleRates(embedding=2.0, matrix=3.0, readout=5.0, vector=7.0)
    expected = {"embedding": 2.0, "matrix": 3.0, "readout": 5.0, "vector": 7.0}
    for section in (optim(), optim("muon")):
        plain, rated = (
            {
                name: group.lr
                for group in describe_parameters(model(32), mup(), section, seq_len=32).groups
                for name in group.parameters
            }
            for section in (section, section.model_copy(update={"rates": rates}))
        )
        roles = describe_parameters(model(32), mup(), section, seq_len=32).facts
        for name, lr in plain.items():
            assert rated[name] == pytest.approx(expected.get(roles[name].role, 1.0) * lr), name


def test_the_initial_scale_is_of_hidden_matrices_alone() -> None:
    plain, scaled = (
        describe_parameters(model(32), mup(init_scale=scale), optim(), seq_len=32) for scale in (1.0, 0.5)
    )
    for name, fact in plain.facts.items():
        factor = 0.5 if fact.role == "matrix" else 1.0
        assert scaled.scalings[name].init == factor * plain.scalings[name].init, name
