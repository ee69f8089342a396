"""Highway layers of the character encoder: their formula, what they start as, and what they cost."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from launcher.mup.init import init_parameters
from models.build_model import model_facts
from models.config import CharCNNEncoder, LMConfig
from models.encoders import Highway, build_encoder, encoder_facts, encoder_flops
from models.facts import Role, match_facts

CHARS = torch.randint(1, 20, (2, 3, 5), generator=torch.Generator().manual_seed(1))


def config(highway_layers: int, d_model: int = 8) -> LMConfig:
    encoder = CharCNNEncoder(
        type="char-cnn", num_chars=20, widths=(1, 3), max_chars=5, highway_layers=highway_layers
    )
    return LMConfig(
        type="lm", vocab_size=20, d_model=d_model, num_layers=1, pattern=("ffn",), encoder=encoder
    )


def encoder(highway_layers: int) -> torch.nn.Module:
    built = build_encoder(config(highway_layers))
    facts = match_facts(
        [name for name, _ in built.named_parameters()], encoder_facts(config(highway_layers), 1.0, tied=False)
    )
    init_parameters(built, facts, dict.fromkeys(facts, 1.0), seed=1)
    return built


def test_a_highway_is_its_formula_one_number_at_a_time() -> None:
    layer, generator = Highway(3), torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    x = torch.randn(4, 3, generator=generator)
    for row, found in zip(x, layer(x), strict=True):
        for k in range(3):
            value = max(float(layer.transform.weight[k] @ row + layer.transform.bias[k]), 0.0)
            gate = 1 / (1 + float(torch.exp(-(layer.gate.weight[k] @ row + layer.gate.bias[k]))))
            assert float(found[k]) == pytest.approx(gate * value + (1 - gate) * float(row[k]), abs=1e-5)


def test_gates_start_nearly_shut_so_that_a_word_is_carried_through() -> None:
    layer = encoder(1).get_submodule("highways.0")
    x = torch.tanh(torch.randn(50, 16, generator=torch.Generator().manual_seed(3)))
    opened = torch.sigmoid(layer.get_submodule("gate")(x))
    assert 0.05 < float(opened.mean()) < 0.25, "sigmoid(-2) is 0.12"
    assert float((layer(x) - x).abs().mean()) < 0.25 * float(x.abs().mean())


def test_without_layers_nothing_is_added() -> None:
    assert not any(name.startswith("highways") for name, _ in encoder(0).named_parameters())
    assert encoder(2)(CHARS).shape == encoder(0)(CHARS).shape == (2, 3, 8)


def test_their_matrices_are_hidden_ones() -> None:
    facts = model_facts(config(1))
    assert facts["embedding.highways.*.gate.weight"].role is Role.MATRIX
    assert facts["embedding.highways.*.transform.bias"].role is Role.VECTOR


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_flops_are_those_of_the_products(layers: int) -> None:
    with FlopCounterMode(display=False) as counter:
        encoder(layers)(CHARS)
    assert encoder_flops(config(layers)) * 6 == pytest.approx(counter.get_total_flops(), rel=1e-6)
