"""The language model: facts, meta builds, causality, muP's forward multiplier, configs."""

import time

import pytest
import torch
from pydantic import ValidationError

from models.build import build_model, flops_per_token, model_facts
from models.config import LMConfig, S4DConfig, with_width
from models.facts import Multipliers, Role, match_facts

TINY = LMConfig(
    type="lm", vocab_size=11, d_model=8, num_layers=4, pattern=("s4d", "ffn"), s4d=S4DConfig(d_state=4)
)


def test_every_parameter_has_exactly_one_fact() -> None:
    names = [name for name, _ in build_model(TINY).named_parameters()]
    facts = match_facts(names, model_facts(TINY))
    assert set(facts) == set(names)
    assert {f.ssm for f in facts.values() if f.role is Role.STATE} == {"dt", "A", "B", "C", "D"}
    assert all(not f.decay for f in facts.values() if f.role in (Role.STATE, Role.VECTOR))


def test_meta_build_has_the_real_shapes_and_no_random_numbers() -> None:
    before = torch.get_rng_state()
    real = {name: p.shape for name, p in build_model(TINY).named_parameters()}
    with torch.device("meta"):
        meta = {name: p.shape for name, p in build_model(TINY).named_parameters()}
    assert meta == real
    assert torch.equal(torch.get_rng_state(), before)
    assert not list(build_model(TINY).buffers())


def test_a_billion_parameters_build_on_meta_within_a_second() -> None:
    config = LMConfig(type="lm", vocab_size=32000, d_model=2048, num_layers=48, pattern=("s4d", "ffn"))
    start = time.process_time()
    with torch.device("meta"):
        model = build_model(config)
    match_facts([name for name, _ in model.named_parameters()], model_facts(config))
    assert time.process_time() - start < 1.0
    assert sum(p.numel() for p in model.parameters()) > 1e9


def test_initial_loss_is_that_of_a_uniform_guess(fill) -> None:
    model = fill(build_model(TINY), model_facts(TINY))
    logits = model(torch.randint(0, 11, (2, 9)))
    assert logits.dtype == torch.float32
    assert torch.equal(logits, torch.zeros(2, 9, 11))


def test_logits_see_no_later_token(fill) -> None:
    config = TINY.model_copy(update={"readout_zero_init": False})
    model = fill(build_model(config), model_facts(config))
    tokens = torch.randint(0, 11, (1, 16))
    changed = tokens.clone()
    changed[:, 9:] = (changed[:, 9:] + 1) % 11
    torch.testing.assert_close(model(tokens)[:, :9], model(changed)[:, :9], atol=2e-5, rtol=0)


def test_readout_multiplier_scales_the_logits(fill) -> None:
    config = TINY.model_copy(update={"readout_zero_init": False})
    tokens = torch.randint(0, 11, (1, 5))
    plain = fill(build_model(config), model_facts(config))(tokens)
    halved = fill(build_model(config, Multipliers(readout=0.5)), model_facts(config))(tokens)
    assert torch.equal(halved, plain * 0.5)


def test_evaluation_changes_no_parameter(fill) -> None:
    model = fill(build_model(TINY), model_facts(TINY)).eval()
    before = {name: p.clone() for name, p in model.named_parameters()}
    with torch.no_grad():
        model(torch.randint(0, 11, (2, 30)))
        model(torch.randint(0, 11, (2, 7)))
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_dropout_acts_in_training_only(fill) -> None:
    config = TINY.model_copy(update={"dropout": 0.5, "readout_zero_init": False})
    model = fill(build_model(config), model_facts(config))
    tokens = torch.randint(0, 11, (1, 8))
    assert not torch.equal(model(tokens), model(tokens))
    assert torch.equal(model.eval()(tokens), model(tokens))


def test_flops_follow_the_formula() -> None:
    # per token and s4d layer: 8 channels x (10 log2(2*16) + 6) + 2*8*16; ffn: 2*2*8*32; readout 2*8*11
    assert flops_per_token(TINY, 16) == 3 * (2 * (8 * 56 + 256) + 2 * 1024 + 176)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_layers": 3}, "num_layers 3 is not a multiple of the pattern's length 2"),
        ({"s4d": {"n_ssm": 3}}, "n_ssm 3 does not divide d_model 8"),
        ({"s4d": {"d_state": 5}}, "multiple of 2"),
        ({"s4d": {"dt_min": 1.0}}, "dt_min 1.0 is above dt_max 0.1"),
    ],
)
def test_wrong_configs_name_the_value(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        LMConfig.model_validate(TINY.model_dump() | change)


def test_with_width_changes_the_width_only() -> None:
    assert with_width(TINY, 16).model_dump() == TINY.model_dump() | {"d_model": 16}
