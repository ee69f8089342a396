"""Multipliers of a model do what their sections say, and nothing at 1."""

import dataclasses
from typing import Any

import pytest
import torch

from launcher.mup.init import init_parameters
from models.build_model import build_model, model_facts
from models.config import AttentionConfig, ClassifierConfig, LMConfig
from models.exported import load_export, save_export
from models.facts import Multipliers, match_facts

NEUTRAL = Multipliers()
ALL = Multipliers(
    readout=0.5, residual=((1.0, 0.25), (1.0, 0.5)), embedding=3.0, attention=2.0, ssm=0.5, ffn=1.7
)
TOKENS = torch.randint(0, 11, (2, 9), generator=torch.Generator().manual_seed(4))


def config(*pattern: str, **fields: Any) -> LMConfig:
    sections = {"attention": AttentionConfig(d_head=8), "readout_zero_init": False} | fields
    return LMConfig.model_validate(
        {"type": "lm", "vocab_size": 11, "d_model": 16, "num_layers": 2, "pattern": pattern} | sections
    )


def built(section: LMConfig | ClassifierConfig, multipliers: Multipliers) -> torch.nn.Module:
    model = build_model(section, multipliers)
    names = [name for name, _ in model.named_parameters()]
    init_parameters(model, match_facts(names, model_facts(section)), dict.fromkeys(names, 1.0), seed=3)
    return model.double()


def logits(multipliers: Multipliers, *pattern: str, **scaled: float) -> torch.Tensor:
    """Of the same initial weights, those whose name ends in a key times its value."""
    model = built(config(*pattern), multipliers)
    with torch.no_grad():
        for ending, factor in scaled.items():
            found = [p for name, p in model.named_parameters() if name.endswith(ending.replace("__", "."))]
            assert found, ending
            for parameter in found:
                parameter.mul_(factor)
    result: torch.Tensor = model(TOKENS)
    return result


def test_readout_and_embedding_multiply_what_their_weights_give() -> None:
    of_weights = logits(NEUTRAL, "ffn", embedding__weight=3.0, readout__weight=0.5)
    of_multipliers = logits(Multipliers(readout=0.5, embedding=3.0), "ffn")
    torch.testing.assert_close(of_multipliers, of_weights)


def test_attention_multiplies_the_logits_as_larger_queries_would() -> None:
    of_weights = logits(NEUTRAL, "attention", query__weight=2.0, query__bias=2.0)
    torch.testing.assert_close(logits(Multipliers(attention=2.0), "attention"), of_weights)


@pytest.mark.parametrize("kind", ["s4d", "s4", "dss"])
def test_ssm_multiplies_what_larger_readouts_of_the_state_would(kind: str) -> None:
    of_weights = logits(NEUTRAL, kind, ssm__C=0.5, ssm__D=0.5)
    torch.testing.assert_close(logits(Multipliers(ssm=0.5), kind), of_weights)


def test_residual_multiplies_every_branch() -> None:
    of_weights = logits(NEUTRAL, "ffn", down__weight=0.25, down__bias=0.25)
    torch.testing.assert_close(logits(Multipliers(residual=((1.0, 0.25),) * 2), "ffn"), of_weights)


def test_ffn_bends_at_the_inverse_of_its_multiplier() -> None:
    of_weights = logits(NEUTRAL, "ffn", up__weight=1.7, up__bias=1.7, down__weight=1 / 1.7)
    torch.testing.assert_close(logits(Multipliers(ffn=1.7), "ffn"), of_weights)


@pytest.mark.parametrize("kind", ["attention", "ffn", "s4d", "s4", "ssd"])
def test_a_token_at_a_time_gives_the_same(kind: str) -> None:
    ssd = {"d_state": 4, "d_head": 4, "heads_per_group": 2}
    model = built(config(kind, ssd=ssd), ALL)
    states, step = model.initial_states(2, TOKENS.device), model.stepper()
    found = []
    for token_B in TOKENS.unbind(1):
        one, states = step(token_B, states)
        found.append(one)
    torch.testing.assert_close(torch.stack(found, dim=1), model(TOKENS), rtol=1e-4, atol=1e-5)


def test_a_classifier_has_them_too() -> None:
    section = ClassifierConfig.model_validate(
        {"type": "classifier", "num_classes": 3, "d_model": 16, "num_layers": 2, "pattern": ("ffn",)}
        | {"encoder": {"type": "linear", "num_features": 2}, "readout_zero_init": False}
    )
    signals = torch.randn(2, 9, 2, generator=torch.Generator().manual_seed(4)).double()
    plain = built(section, NEUTRAL)(signals)
    assert not torch.allclose(built(section, Multipliers(embedding=3.0))(signals), plain)
    torch.testing.assert_close(built(section, Multipliers(readout=0.5))(signals), plain / 2)


def test_an_exported_model_keeps_all_of_them(tmp_path: Any) -> None:
    section = config("attention", "ffn")
    model = built(section, ALL).float()
    path = str(tmp_path / "model.safetensors")
    save_export(path, section, ALL, dict(model.named_parameters()))
    torch.testing.assert_close(load_export(path)(TOKENS), model(TOKENS))
    assert dataclasses.asdict(ALL).keys() == {f.name for f in dataclasses.fields(Multipliers)}


def test_zero_queries_attend_equally_to_all_that_is_seen() -> None:
    section = config("attention", attention=AttentionConfig(d_head=8, query_zero_init=True, rotary=False))
    layer = built(section, NEUTRAL).get_submodule("layers.0.attention")
    x_BLH = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(4)).double()
    seen = torch.ones(5, 5).tril().double()
    means = (seen / seen.sum(1, keepdim=True)) @ layer.get_submodule("value")(x_BLH)
    torch.testing.assert_close(layer(x_BLH), layer.get_submodule("output")(means))
