"""The language model: facts, meta builds, causality, state, options, configs."""

import time
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from models.build_model import build_model, flops_per_token, model_facts
from models.config import AttentionConfig, LMConfig, MomentumConfig, SSDConfig, with_width
from models.facts import Multipliers, Role, match_facts
from models.generation import generate
from models.lm import LM
from models.ssm.config import DSSConfig, S4Config, S4DConfig

CPU = torch.device("cpu")

TINY = LMConfig(
    type="lm",
    vocab_size=11,
    d_model=8,
    num_layers=7,
    pattern=("s4d", "s4", "dss", "attention", "momentum", "ssd", "ffn"),
    s4d=S4DConfig(d_state=4),
    s4=S4Config(d_state=4),
    dss=DSSConfig(d_state=3),
    attention=AttentionConfig(d_head=4),
    momentum=MomentumConfig(d_head=4),
    ssd=SSDConfig(d_state=4, d_head=4, heads_per_group=2),
    readout_zero_init=False,
)

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "post-norm": {"prenorm": False},
    "rms": {"norm": "rms"},
    "no norm": {"norm": "none"},
    "tied": {"tie_embeddings": True},
    "layer mix": {"layer_mix": "gated"},
    "depth_sqrt": {"residual": "depth_sqrt", "residual_base": 2},
    "completep": {"residual": "completep"},
    "gated": {"s4d": S4DConfig(d_state=4, gate=True, final_act="gelu", channels=2)},
    "rectangular": {"s4": S4Config(d_state=4, final_act="id", channels=3, init="hippo", n_ssm=2)},
    "sp attention": {"attention": AttentionConfig(d_head=None, num_heads=2, scale="sqrt", rotary=False)},
    "dropouts": {"dropout": 0.2, "dropout_tied": True, "embedding_dropout": 0.1, "readout_dropout": 0.1},
}


def tiny(**changes: Any) -> LMConfig:
    return LMConfig.model_validate(dict(TINY) | changes)


@pytest.fixture(params=OPTIONS)
def config(request) -> LMConfig:
    return tiny(**OPTIONS[request.param])


@pytest.fixture
def model(config, fill) -> LM:
    return fill(build_model(config), model_facts(config)).eval()


def tokens(length: int, batch: int = 2) -> torch.Tensor:
    return torch.randint(0, 11, (batch, length), generator=torch.Generator().manual_seed(length))


def test_every_parameter_has_exactly_one_fact(config) -> None:
    names = [name for name, _ in build_model(config).named_parameters()]
    facts = match_facts(names, model_facts(config))
    assert set(facts) == set(names)
    assert {f.ssm for f in facts.values() if f.role is Role.STATE} == {"dt", "A", "B", "C", "D", "P"}
    assert all((f.ssm is not None) == (f.role is Role.STATE) for f in facts.values())
    assert all(not f.decay for f in facts.values() if f.role in (Role.STATE, Role.VECTOR))


def test_meta_build_has_the_real_shapes_and_draws_no_random_numbers(config) -> None:
    before = torch.get_rng_state()
    real = {name: p.shape for name, p in build_model(config).named_parameters()}
    with torch.device("meta"):
        meta = {name: p.shape for name, p in build_model(config).named_parameters()}
    assert meta == real
    assert torch.equal(torch.get_rng_state(), before)
    assert not list(build_model(config).buffers())


def test_logits_see_no_later_token(model) -> None:
    changed = tokens(16).clone()
    changed[:, 9:] = (changed[:, 9:] + 1) % 11
    torch.testing.assert_close(model(tokens(16))[:, :9], model(changed)[:, :9], atol=2e-5, rtol=0)


def test_chunks_with_state_equal_the_whole(model) -> None:
    x_BL, states, logits = tokens(70), model.initial_states(2, CPU), []
    for chunk in x_BL.split([1, 2, 30, 37], dim=1):
        more, states = model(chunk, states)
        logits.append(more)
    torch.testing.assert_close(torch.cat(logits, dim=1), model(x_BL), atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_steps_equal_the_whole(model) -> None:
    x_BL, states, step, logits = tokens(30), model.initial_states(2, CPU), model.stepper(), []
    for x_B in x_BL.unbind(1):
        more, states = step(x_B, states)
        logits.append(more)
    torch.testing.assert_close(torch.stack(logits, dim=1), model(x_BL), atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_generation_continues_with_the_most_likely_tokens_of_the_whole_forward(model) -> None:
    x_BL = tokens(5)
    for found_B in generate(model, x_BL, 6, temperature=0):
        assert torch.equal(found_B, model(x_BL)[:, -1].argmax(-1))
        x_BL = torch.cat((x_BL, found_B[:, None]), dim=1)


def test_every_parameter_gets_a_gradient_and_evaluation_changes_none(model) -> None:
    before = {name: p.clone() for name, p in model.named_parameters()}
    with torch.no_grad():
        model(tokens(30))
    model(tokens(7)).square().mean().backward()
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]), name
        assert p.grad is not None, name
        assert torch.isfinite(p.grad).all(), name


def test_compiles_as_a_whole(fill) -> None:
    config = tiny(num_layers=4, pattern=("s4d", "attention", "momentum", "ssd"))
    model = fill(build_model(config), model_facts(config))
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(tokens(20)), model(tokens(20)), atol=2e-5, rtol=1e-4)


def test_runs_on_meta() -> None:
    with torch.device("meta"):
        assert build_model(TINY)(torch.zeros(2, 9, dtype=torch.int64)).shape == (2, 9, 11)


def test_a_billion_parameters_build_on_meta_within_a_second() -> None:
    config = LMConfig(type="lm", vocab_size=32000, d_model=2048, num_layers=48, pattern=("s4d", "ffn"))
    start = time.process_time()
    with torch.device("meta"):
        model = build_model(config)
    match_facts([name for name, _ in model.named_parameters()], model_facts(config))
    assert time.process_time() - start < 1.0
    assert sum(p.numel() for p in model.parameters()) > 1e9


def test_a_zero_readout_starts_with_a_uniform_guess(fill) -> None:
    config = tiny(readout_zero_init=True)
    logits = fill(build_model(config), model_facts(config))(tokens(9))
    assert logits.dtype == torch.float32
    assert torch.equal(logits, torch.zeros(2, 9, 11))


@pytest.mark.parametrize("tied", [False, True])
def test_readout_multiplier_scales_the_logits(fill, tied: bool) -> None:
    config = tiny(tie_embeddings=tied)
    plain = fill(build_model(config), model_facts(config))(tokens(5))
    halved = fill(build_model(config, Multipliers(readout=0.5)), model_facts(config))(tokens(5))
    assert torch.equal(halved, plain * 0.5)


def test_tied_embedding_is_one_parameter_with_its_own_role() -> None:
    config = tiny(tie_embeddings=True)
    facts = match_facts([n for n, _ in build_model(config).named_parameters()], model_facts(config))
    assert facts["embedding.weight"].role is Role.TIED
    assert "readout.weight" not in facts


@pytest.mark.parametrize("rate", ["dropout", "embedding_dropout", "readout_dropout"])
def test_dropout_acts_in_training_only(fill, rate: str) -> None:
    config = tiny(**{rate: 0.5})
    model = fill(build_model(config), model_facts(config))
    assert not torch.equal(model(tokens(8)), model(tokens(8)))
    assert torch.equal(model.eval()(tokens(8)), model(tokens(8)))


def test_residual_factors_are_the_named_ones(fill) -> None:
    outputs = {}
    for residual in ("none", "depth_sqrt", "completep"):
        config = tiny(residual=residual, residual_base=3, pattern=("ffn",), norm="none", num_layers=6)
        model = fill(build_model(config), model_facts(config))
        x_BLH = torch.ones(1, 1, 8)
        outputs[residual] = model.layers[0](x_BLH) - x_BLH
    torch.testing.assert_close(outputs["depth_sqrt"], outputs["none"] * 0.5**0.5)
    torch.testing.assert_close(outputs["completep"], outputs["none"] * 0.5)


def test_flops_follow_the_formulas() -> None:
    # per token, L = 16: an s4d layer has 8 channels x (2 x 2.5 x 32 x 5 / 16 + 6) + 2 x 8 x 16,
    # ffn 2 x 2 x 8 x 32, attention 8 x 64 + 4 x 8.5 x 8, readout 2 x 8 x 11
    config = tiny(pattern=("s4d", "ffn", "attention"), num_layers=3)
    expected = (8 * 56 + 256) + 1024 + (512 + 272) + 176
    assert flops_per_token(config, 16) == 3 * expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_layers": 3}, "num_layers 3 is not a multiple of the pattern's length 7"),
        ({"s4d": {"n_ssm": 3}}, "n_ssm 3 does not divide d_model 8"),
        ({"s4": {"init": "hippo", "n_ssm": 1}}, "init hippo halves the copies of A, but there are 1"),
        ({"s4d": {"d_state": 5}}, "multiple of 2"),
        ({"s4d": {"init": "legt"}}, "'lin', 'inv', 'legs', 'real' or 'diag'"),
        ({"s4d": {"dt_min": 1.0}}, "dt_min 1.0 is above dt_max 0.1"),
        ({"s4": {"init": "legt"}}, "rank is 1, but init legt has rank 2"),
        ({"dss": {"version": "softmax"}}, "softmax needs max_length"),
        ({"s4": {"bidirectional": True}}, "must not see later positions"),
        ({"attention": {"causal": False, "d_head": 4}}, "must not see later positions"),
        ({"attention": {"d_head": 3}}, "attention.d_head 3 does not divide d_model 8"),
        ({"attention": {"d_head": 1}}, "turns pairs of channels, but a head has 1"),
        ({"attention": {"d_head": 4, "num_heads": 2}}, "give one and set the other to null"),
        ({"momentum": {"d_head": 5}}, "momentum.d_head 5 does not divide d_model 8"),
        ({"ssd": {"d_head": 4, "heads_per_group": 3}}, "does not divide expand 2 x d_model 8"),
        ({"norm": "batch"}, "'layer', 'rms' or 'none'"),
        (
            {"encoder": {"type": "char-cnn"}, "tie_embeddings": True},
            "encoder char-cnn has no table of tokens",
        ),
    ],
)
def test_wrong_configs_name_the_value(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        LMConfig.model_validate(TINY.model_dump() | change)


def test_with_width_changes_the_width_only() -> None:
    assert with_width(TINY, 16).model_dump() == TINY.model_dump() | {"d_model": 16}
