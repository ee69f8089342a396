"""The classifier: encoders, pooling, padding, batch norm."""

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from models.build_model import build_model, flops_per_token, model_facts, reset_buffers
from models.classifier import Classifier
from models.config import AttentionConfig, ClassifierConfig
from models.facts import Role, match_facts
from models.ssm.config import S4Config, S4DConfig

BASE: dict[str, Any] = {
    "type": "classifier",
    "num_classes": 3,
    "vocab_size": 7,
    "encoder": {"type": "token"},
    "d_model": 8,
    "num_layers": 3,
    "pattern": ("s4d", "s4", "attention"),
    "s4d": S4DConfig(d_state=4, bidirectional=True),
    "s4": S4Config(d_state=4, bidirectional=True, channels=2),
    "attention": AttentionConfig(d_head=4, causal=False),
    "readout_zero_init": False,
}

VARIANTS: dict[str, dict[str, Any]] = {
    "tokens": {},
    "signal": {"encoder": {"type": "linear", "num_features": 2}, "vocab_size": None},
    "words": {"encoder": {"type": "char-cnn", "num_chars": 9, "widths": (1, 3)}, "vocab_size": None},
    "last": {"pool": "last"},
    "max": {"pool": "max"},
    "batch norm": {"norm": "batch"},
    "batch post-norm": {"norm": "batch", "prenorm": False},
    "layer mix": {"layer_mix": "gated"},
}
PAIRS: dict[str, dict[str, Any]] = {
    f"pairs of {name}": VARIANTS[name] | {"num_sequences": 2}
    for name in ("tokens", "signal", "words", "max", "batch norm")
}


@pytest.fixture(params=VARIANTS | PAIRS)
def config(request) -> ClassifierConfig:
    return ClassifierConfig.model_validate(BASE | (VARIANTS | PAIRS)[request.param])


@pytest.fixture(params=PAIRS)
def pairs(request) -> ClassifierConfig:
    return ClassifierConfig.model_validate(BASE | PAIRS[request.param])


@pytest.fixture
def model(config, fill) -> Classifier:
    return fill(build_model(config), model_facts(config)).eval()


def inputs(config: ClassifierConfig, length: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(length)
    shape = (2, 2, length) if config.num_sequences == 2 else (2, length)
    if config.encoder.type == "linear":
        return torch.randn(*shape, 2, generator=generator)
    shape = (*shape, 5) if config.encoder.type == "char-cnn" else shape
    return torch.randint(0, 7, shape, generator=generator)


def test_every_parameter_has_exactly_one_fact(config) -> None:
    names = [name for name, _ in build_model(config).named_parameters()]
    assert set(match_facts(names, model_facts(config))) == set(names)


def test_padding_changes_nothing(config, model) -> None:
    x, lengths = inputs(config, 20), torch.tensor([13, 20])
    if config.num_sequences == 1:
        alone = torch.cat((model(x[:1, :13]), model(x[1:])))
    else:
        alone = torch.cat((model(x[:1, :, :13]), model(x[1:])))
        lengths = lengths[:, None].expand(2, 2)
    torch.testing.assert_close(model(x, lengths), alone, atol=1e-5, rtol=1e-4)


def test_padding_changes_nothing_in_training_with_batch_norm(fill) -> None:
    config = ClassifierConfig.model_validate(BASE | {"norm": "batch"})
    model = fill(build_model(config), model_facts(config)).train()
    x, lengths = inputs(config, 13), torch.tensor([13, 13])
    plain = model(x)
    mean = model.layers[0].norm.running_mean.clone()
    reset_buffers(model)
    padded = torch.nn.functional.pad(x, (0, 7), value=6)
    torch.testing.assert_close(model(padded, lengths), plain, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(model.layers[0].norm.running_mean, mean)


def test_batch_norm_normalises_in_training_and_remembers_for_evaluation(fill) -> None:
    config = ClassifierConfig.model_validate(BASE | {"norm": "batch"})
    model = fill(build_model(config), model_facts(config))
    norm, reference = model.layers[0].norm, torch.nn.BatchNorm1d(8)
    x_BLH = 3 + 2 * torch.randn(4, 50, 8)
    torch.testing.assert_close(norm(x_BLH), reference(x_BLH.transpose(1, 2)).transpose(1, 2))
    torch.testing.assert_close(norm.running_var, reference.running_var)
    torch.testing.assert_close(norm.eval()(x_BLH), reference.eval()(x_BLH.transpose(1, 2)).transpose(1, 2))


def test_buffers_are_restored_after_a_meta_build(fill) -> None:
    config = ClassifierConfig.model_validate(BASE | {"norm": "batch"})
    with torch.device("meta"):
        model = build_model(config)
    model = model.to_empty(device="cpu")
    reset_buffers(model)
    fill(model, model_facts(config))
    expected = fill(build_model(config), model_facts(config))
    assert torch.equal(model.eval()(inputs(config, 9)), expected.eval()(inputs(config, 9)))


def test_every_parameter_gets_a_finite_gradient(config, model) -> None:
    lengths = torch.tensor([11, 4]) if config.num_sequences == 1 else torch.tensor([[11, 4], [3, 11]])
    model(inputs(config, 11), lengths).square().mean().backward()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert torch.isfinite(p.grad).all(), name


def test_each_of_a_pair_is_encoded_as_if_it_were_alone(pairs, fill) -> None:
    model = fill(build_model(pairs), model_facts(pairs)).eval()
    single = build_model(pairs.model_copy(update={"num_sequences": 1})).eval()
    single.load_state_dict(model.state_dict(), strict=False)
    x, lengths = inputs(pairs, 12), torch.tensor([[12, 5], [7, 12]])
    seen: list[torch.Tensor] = []
    hook = single.readout_dropout.register_forward_hook(lambda module, args, out: seen.append(out[:, 0]))
    for index in range(2):
        single(x[:, index], lengths[:, index])
    hook.remove()
    a_BH, b_BH = seen
    features = torch.cat((a_BH, b_BH, a_BH - b_BH, a_BH * b_BH), dim=-1)
    expected = model.readout(torch.nn.functional.gelu(model.compare.hidden(features)))
    torch.testing.assert_close(model(x, lengths), expected, atol=1e-5, rtol=1e-4)


def test_lengths_of_a_pair_are_its_own(pairs, fill) -> None:
    model = fill(build_model(pairs), model_facts(pairs)).eval()
    x, lengths = inputs(pairs, 12), torch.tensor([[12, 5], [7, 12]])
    expected = model(x, lengths)
    for row, index in ((0, 1), (1, 0)):
        x[row, index, lengths[row, index] :] = 0
    torch.testing.assert_close(model(x, lengths), expected, atol=1e-6, rtol=1e-5)
    assert not torch.allclose(model(x), expected, atol=1e-3)


def test_swapping_a_pair_swaps_what_is_compared(pairs, fill) -> None:
    model = fill(build_model(pairs), model_facts(pairs)).eval()
    x = inputs(pairs, 9)
    swapped = model(x.flip(1))
    assert not torch.allclose(swapped, model(x), atol=1e-3), "which of the two comes first can matter"
    weight = model.compare.hidden.weight
    with torch.no_grad():
        a, b, difference, product = weight.clone().chunk(4, dim=1)
        weight.copy_(torch.cat((b, a, -difference, product), dim=1))
    torch.testing.assert_close(model(x), swapped, atol=1e-5, rtol=1e-4)


def test_the_comparison_is_a_matrix_of_width(pairs) -> None:
    facts = match_facts([name for name, _ in build_model(pairs).named_parameters()], model_facts(pairs))
    assert facts["compare.hidden.weight"].role is Role.MATRIX
    assert facts["compare.hidden.bias"].role is Role.VECTOR
    assert facts["readout.weight"].role is Role.READOUT
    with torch.device("meta"):
        assert build_model(pairs).compare.hidden.weight.shape == (8, 32)


def test_words_do_not_depend_on_the_padding_of_characters(fill) -> None:
    config = ClassifierConfig.model_validate(BASE | VARIANTS["words"])
    encoder = fill(build_model(config), model_facts(config)).embedding
    words = torch.tensor([[[3, 1, 4, 0, 0], [1, 0, 0, 0, 0]]])
    torch.testing.assert_close(encoder(words), encoder(words[..., :3]))


def test_models_that_look_ahead_have_no_state(fill) -> None:
    config = ClassifierConfig.model_validate(BASE)
    model = fill(build_model(config), model_facts(config))
    with pytest.raises(ValueError, match="bidirectional is true"):
        model.layers[0].mixer.initial_state(1, torch.device("cpu"))
    with pytest.raises(ValueError, match="causal is false"):
        model.layers[2].mixer.initial_state(1, torch.device("cpu"))


def test_flops_count_encoder_layers_and_one_readout_a_sequence() -> None:
    changes = VARIANTS["signal"] | {"pattern": ("ffn",), "num_layers": 1}
    config = ClassifierConfig.model_validate(BASE | changes)
    assert flops_per_token(config, 16) == 3 * (2 * 2 * 8 + 4 * 4 * 64 + 2 * 8 * 3 / 16)
    # of a pair, 32 positions have one head between them
    config = config.model_copy(update={"num_sequences": 2})
    assert flops_per_token(config, 16) == 3 * (2 * 2 * 8 + 4 * 4 * 64 + (2 * 32 * 8 + 2 * 8 * 3) / 32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocab_size": None}, "encoder is token and vocab_size None"),
        ({"encoder": {"type": "linear", "num_features": 1}}, "encoder is linear and vocab_size 7"),
        ({"encoder": {"type": "words"}}, "'token', 'char-cnn', 'linear'"),
        ({"pool": "first"}, "'mean', 'last' or 'max'"),
        ({"num_sequences": 3}, "1 or 2"),
    ],
)
def test_wrong_configs_name_the_value(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ClassifierConfig.model_validate(BASE | change)
