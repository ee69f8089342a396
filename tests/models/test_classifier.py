"""The classifier: encoders, pooling, padding, batch norm."""

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from models.build import build_model, flops_per_token, model_facts, reset_buffers
from models.classifier import Classifier
from models.config import AttentionConfig, ClassifierConfig
from models.facts import match_facts
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


@pytest.fixture(params=VARIANTS)
def config(request) -> ClassifierConfig:
    return ClassifierConfig.model_validate(BASE | VARIANTS[request.param])


@pytest.fixture
def model(config, fill) -> Classifier:
    return fill(build_model(config), model_facts(config)).eval()


def inputs(config: ClassifierConfig, length: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(length)
    if config.encoder.type == "linear":
        return torch.randn(2, length, 2, generator=generator)
    shape = (2, length, 5) if config.encoder.type == "char-cnn" else (2, length)
    return torch.randint(0, 7, shape, generator=generator)


def test_every_parameter_has_exactly_one_fact(config) -> None:
    names = [name for name, _ in build_model(config).named_parameters()]
    assert set(match_facts(names, model_facts(config))) == set(names)


def test_padding_changes_nothing(config, model) -> None:
    x = inputs(config, 20)
    lengths = torch.tensor([13, 20])
    alone = torch.cat((model(x[:1, :13]), model(x[1:])))
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
    model(inputs(config, 11), torch.tensor([11, 4])).square().mean().backward()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert torch.isfinite(p.grad).all(), name


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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocab_size": None}, "encoder is token and vocab_size None"),
        ({"encoder": {"type": "linear", "num_features": 1}}, "encoder is linear and vocab_size 7"),
        ({"encoder": {"type": "words"}}, "'token', 'char-cnn', 'linear'"),
        ({"pool": "first"}, "'mean', 'last' or 'max'"),
    ],
)
def test_wrong_configs_name_the_value(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ClassifierConfig.model_validate(BASE | change)
