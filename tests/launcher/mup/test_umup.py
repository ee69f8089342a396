"""u-muP against unit-scaling 0.3.5: the same function at every step, and variance one at the start."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from launcher.mup.config import MultiplierConfig, MupConfig
from launcher.mup.init import init_parameters
from launcher.mup.umup import residual_factors
from launcher.optim.build_optimizer import build_optimizer
from launcher.optim.config import AdamWConfig, OptimConfig, SGDConfig
from launcher.plan.parameters import Parameters, describe_parameters
from models.attention import rotate
from models.build_model import build_model
from models.config import AttentionConfig, FFNConfig, LMConfig
from models.facts import Role

uu = pytest.importorskip("unit_scaling", reason="unit-scaling is a dependency of the tests")
U = uu.functional

LAYERS, VOCAB, LENGTH, HEAD = 4, 11, 24, 8
RATE, DECAY = 0.25, 0.1


NEUTRAL = MultiplierConfig()
TUNED = MultiplierConfig(output=2.0, attention=0.5, residual=0.7, attention_ratio=1.5, ffn=3.0)


def config(d_model: int, num_layers: int = LAYERS, **fields: Any) -> LMConfig:
    return LMConfig(
        type="lm",
        vocab_size=VOCAB,
        d_model=d_model,
        num_layers=num_layers,
        pattern=("attention", "ffn"),
        attention=AttentionConfig(d_head=HEAD),
        ffn=FFNConfig(expand=4),
        readout_zero_init=False,
        **fields,
    )


def describe(d_model: int, **fields: Any) -> Parameters:
    # eps far below any gradient: it is the one thing that constant factors on gradients could change
    optim = AdamWConfig(type="adamw", lr=RATE, weight_decay=DECAY, eps=1e-30)
    mup = MupConfig(type="umup")
    return describe_parameters(config(d_model, **fields), mup, optim, seq_len=LENGTH)


def new_model(d_model: int, parameters: Parameters) -> nn.Module:
    model = build_model(config(d_model), parameters.multipliers)
    init_parameters(model, parameters.facts, {n: s.init for n, s in parameters.scalings.items()}, seed=2)
    return model


class Reference:
    """The same model out of unit-scaling's operations and parameters, each of them of variance one."""

    def __init__(
        self, model: nn.Module, parameters: Parameters, multipliers: MultiplierConfig = NEUTRAL
    ) -> None:
        self.multipliers = multipliers
        self.values: dict[str, nn.Parameter] = {}
        for name, p in model.named_parameters():
            depth = LAYERS // 2 if name.startswith("layers.") else None
            unabsorbed = p.detach() / self._absorbed(name, parameters)
            self.values[name] = uu.Parameter(unabsorbed, self._type(name, parameters), depth)

    @staticmethod
    def _absorbed(name: str, parameters: Parameters) -> float:
        """What our value contains of the layer's multiplier: fan_in^-1/2, and a weight its input's gain."""
        weight = name.removesuffix(".bias") + ".weight" if name.endswith(".bias") else name
        if weight not in parameters.facts or parameters.facts[weight].role is not Role.MATRIX:
            return 1.0
        gain = parameters.scalings[weight].init if weight == name else 1.0
        return gain / math.sqrt(parameters.shapes[weight][1])

    @staticmethod
    def _type(name: str, parameters: Parameters) -> str:
        if name.endswith("bias"):
            return "bias"
        return {Role.VECTOR: "norm", Role.READOUT: "output"}.get(parameters.facts[name].role, "weight")

    def linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return U.linear(x, self.values[f"{name}.weight"], self.values[f"{name}.bias"])

    def norm(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return U.layer_norm(x, x.shape[-1:], self.values[f"{name}.weight"], self.values[f"{name}.bias"])

    def attention(self, name: str, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            self.linear(f"{name}.{part}", x).unflatten(-1, (-1, HEAD)).transpose(1, 2)
            for part in ("query", "key", "value")
        )
        out = U.scaled_dot_product_attention(
            rotate(q, 0), rotate(k, 0), v, is_causal=True, mult=8.0 * self.multipliers.attention
        )
        return self.linear(f"{name}.output", out.transpose(1, 2).flatten(2))

    def ffn(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return self.linear(f"{name}.down", U.gelu(self.linear(f"{name}.up", x), mult=self.multipliers.ffn))

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        rule = transformer_rule(self.multipliers)
        x = U.embedding(tokens, self.values["embedding.weight"])
        for index in range(LAYERS):
            kind, tau = ("attention", "ffn")[index % 2], rule(index, LAYERS)
            residual, skip = U.residual_split(x, tau)
            branch = getattr(self, kind)(
                f"layers.{index}.{kind}", self.norm(f"layers.{index}.norm", residual)
            )
            x = U.residual_add(branch, skip, tau)
        return U.linear_readout(self.norm("norm", x), self.values["readout.weight"], None)

    def optimizer(self, parameters: Parameters) -> torch.optim.Optimizer:
        """Their decay is lr x decay, ours decay of lr: equal at lr x decay; only weights of layers decay."""
        decayed = [p for n, p in self.values.items() if parameters.facts[n].decay]
        others = [p for n, p in self.values.items() if not parameters.facts[n].decay]
        groups = [
            {"params": decayed, "weight_decay": RATE * DECAY},
            {"params": others, "weight_decay": 0.0},
        ]
        return uu.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.95), eps=1e-30)


def tokens(batch: int) -> torch.Tensor:
    return torch.randint(0, VOCAB, (batch, LENGTH), generator=torch.Generator().manual_seed(4))


def transformer_rule(multipliers: MultiplierConfig) -> Callable[[int, int], float]:
    rule = uu.core.functional.transformer_residual_scaling_rule
    return rule(multipliers.residual, multipliers.attention_ratio)


def train_both(
    parameters: Parameters,
    optim: OptimConfig,
    make_theirs: Callable[[Reference], Any],
    multipliers: MultiplierConfig = NEUTRAL,
) -> None:
    """Five steps in float64: apart only by rounding, which Adam and momentum amplify; logits are float32."""
    model = new_model(16, parameters).double()
    reference = Reference(model, parameters, multipliers)
    ours = build_optimizer(dict(model.named_parameters()), parameters.groups, optim)
    theirs = make_theirs(reference)
    x, first = tokens(4), None
    for _ in range(5):
        logits, expected = model(x), reference(x)
        torch.testing.assert_close(logits, multipliers.output * expected.float(), rtol=1e-5, atol=1e-6)
        ours.zero_grad()
        theirs.zero_grad()
        loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), x[:, 1:].flatten())
        first = float(loss.detach()) if first is None else first
        loss.backward()
        theirs_of = expected[:, :-1].flatten(0, 1)
        U.cross_entropy(theirs_of, x[:, 1:].flatten(), mult=multipliers.output).backward()
        ours.step()
        theirs.step()
    assert float(loss.detach()) < first


@pytest.mark.parametrize("multipliers", [NEUTRAL, TUNED], ids=["neutral", "tuned"])
def test_training_with_adamw_is_unit_scalings_step_by_step(multipliers: MultiplierConfig) -> None:
    optim = AdamWConfig(type="adamw", lr=RATE, weight_decay=DECAY, eps=1e-30)
    mup = MupConfig(type="umup", multipliers=multipliers)
    parameters = describe_parameters(config(16), mup, optim, seq_len=LENGTH)
    train_both(parameters, optim, lambda reference: reference.optimizer(parameters), multipliers)


@pytest.mark.parametrize("multipliers", [NEUTRAL, TUNED], ids=["neutral", "tuned"])
def test_training_with_sgd_is_unit_scalings_with_a_free_readout(multipliers: MultiplierConfig) -> None:
    """Their gradients are those of the mean loss times one constant, the square root of the rows in each
    layer.

    Their loss leaves out the last position, but their layers count it: rows are 4 x 24, targets 4 x 23.
    """
    rows, targets = 4 * LENGTH, 4 * (LENGTH - 1)
    constant = targets * VOCAB / math.sqrt(VOCAB - 1) / math.sqrt(rows)
    optim = SGDConfig(type="sgd", lr=0.02 * constant, momentum=0.9, weight_decay=0.0)
    mup = MupConfig(type="umup", multipliers=multipliers)
    parameters = describe_parameters(config(16), mup, optim, seq_len=LENGTH)
    assert len({scaling.lr for scaling in parameters.scalings.values()}) > 2 * LAYERS
    train_both(
        parameters,
        optim,
        lambda reference: uu.optim.SGD(reference.values.values(), lr=0.02, momentum=0.9),
        multipliers,
    )


@pytest.mark.parametrize("multipliers", [NEUTRAL, TUNED], ids=["neutral", "tuned"])
def test_residual_factors_are_the_transformer_rules(multipliers: MultiplierConfig) -> None:
    rule = transformer_rule(multipliers)
    for index, (skip, branch) in enumerate(residual_factors(config(16, num_layers=6), multipliers)):
        tau = rule(index, 6)
        assert (skip, branch) == pytest.approx(((1 + tau**2) ** -0.5, tau * (1 + tau**2) ** -0.5))


@pytest.mark.parametrize("d_model", [32, 128])
def test_every_branch_and_the_stream_have_variance_one_at_the_start(d_model: int) -> None:
    parameters = describe(d_model)
    model = new_model(d_model, parameters)
    found: dict[str, float] = {}

    def record(name: str) -> Any:
        return lambda module, inputs, output: found.__setitem__(name, float(output.detach().std()))

    for name, module in model.named_modules():
        if name.endswith((".ffn", ".attention", ".up", ".query")) or name in ("embedding", "norm"):
            module.register_forward_hook(record(name))
    for index, layer in enumerate(model.get_submodule("layers").children()):
        layer.register_forward_hook(record(f"stream {index}"))
    model(tokens(32))
    assert len(found) >= 2 * LAYERS
    # fits of gelu and attention are good to a few per cent; 11 tokens repeat, which correlates positions
    assert all(0.7 <= std <= 1.4 for std in found.values()), found


def test_rates_are_absolute_and_printed_with_their_rule() -> None:
    parameters = describe(64)
    rates = {name: scaling.lr for name, scaling in parameters.scalings.items()}
    stack = (LAYERS / 2) ** -0.5
    assert rates["embedding.weight"] == pytest.approx(64**-0.5)
    assert rates["readout.weight"] == 1.0
    assert rates["norm.weight"] == 1.0
    assert rates["layers.1.ffn.up.weight"] == pytest.approx(stack / 64)
    assert rates["layers.1.ffn.up.bias"] == pytest.approx(stack * 64**-0.5)
    assert rates["layers.1.ffn.down.bias"] == pytest.approx(stack * 256**-0.5)
    assert all("u-muP" in scaling.source for scaling in parameters.scalings.values())


@pytest.mark.parametrize(("policy", "factor"), [("constant", 64.0), ("sqrt", 8.0), ("independent", 1.0)])
def test_decay_policies(policy: Any, factor: float) -> None:
    optim = AdamWConfig(type="adamw", lr=RATE)
    mup = MupConfig(type="umup", weight_decay=policy)
    scalings = describe_parameters(config(64), mup, optim, seq_len=LENGTH).scalings
    stack = (LAYERS / 2) ** 0.5
    expected = factor * stack ** {"constant": 1.0, "sqrt": 0.5, "independent": 0.0}[policy]
    assert scalings["layers.1.ffn.up.weight"].weight_decay == pytest.approx(expected)
