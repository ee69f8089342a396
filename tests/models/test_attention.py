"""Softmax attention and linear attention with momentum, against their definitions."""

import math

import pytest
import torch

from models.attention import Attention, attention_facts, rotate
from models.config import AttentionConfig, MomentumConfig
from models.momentum import EPSILON, MomentumAttention, momentum_facts

CPU = torch.device("cpu")


@pytest.mark.parametrize("scale", ["mup", "sqrt"])
def test_attention_is_a_softmax_over_the_past(fill, scale: str) -> None:
    config = AttentionConfig(d_head=4, scale=scale, rotary=False)
    mixer = fill(Attention(config, 8), attention_facts(config))
    x_BLH = torch.randn(2, 9, 8)
    q, k, v = (part(x_BLH).view(2, 9, 2, 4) for part in (mixer.query, mixer.key, mixer.value))
    factor = 8 / 4 if scale == "mup" else 1 / math.sqrt(4)
    logits = torch.einsum("biak,bjak->baij", q, k) * factor
    logits = logits.masked_fill(torch.ones(9, 9).triu(1).bool(), -torch.inf)
    expected = mixer.output(torch.einsum("baij,bjak->biak", logits.softmax(-1), v).flatten(2))
    torch.testing.assert_close(mixer(x_BLH), expected)


def test_mup_scale_is_the_standard_one_at_64_and_falls_with_the_head(fill) -> None:
    def scale(d_head: int, kind: str) -> float:
        return Attention(AttentionConfig(d_head=d_head, scale=kind), 128).scale

    assert scale(64, "mup") == scale(64, "sqrt")
    assert scale(128, "mup") == scale(64, "mup") / 2


def test_rotated_products_depend_on_the_distance_only() -> None:
    q, k = torch.randn(1, 1, 1, 8, dtype=torch.float64), torch.randn(1, 1, 1, 8, dtype=torch.float64)
    near = (rotate(q, 7) * rotate(k, 3)).sum()
    far = (rotate(q, 1007) * rotate(k, 1003)).sum()
    torch.testing.assert_close(near, far, atol=1e-4, rtol=0)  # angles are float32: 1000 * 6e-8


@pytest.mark.parametrize("length", [1, 2, 3, 17, 150])
@pytest.mark.parametrize("momentum", [0.0, 0.6, 0.95])
def test_momentum_attention_is_its_recurrence(fill, length: int, momentum: float) -> None:
    config = MomentumConfig(d_head=4, momentum=momentum, step_size=0.7)
    mixer = fill(MomentumAttention(config, 8), momentum_facts())
    x_BLH = torch.randn(2, length, 8)
    q, k = (
        torch.nn.functional.elu(part(x_BLH)).double().view(2, length, 2, 4) + 1
        for part in (mixer.query, mixer.key)
    )
    v = mixer.value(x_BLH).double().view(2, length, 2, 4)
    s, m, z, outputs = 0.0, 0.0, 0.0, []
    for i in range(length):  # arXiv 2208.00579, equations 10 and 11
        m = momentum * m - torch.einsum("bak,bav->bakv", k[:, i], v[:, i])
        s = s - 0.7 * m
        z = z + k[:, i]
        outputs.append(
            torch.einsum("bak,bakv->bav", q[:, i], s) / ((q[:, i] * z).sum(-1, keepdim=True) + EPSILON)
        )
    expected = mixer.output(torch.stack(outputs, dim=1).flatten(2).float())
    torch.testing.assert_close(mixer(x_BLH), expected, atol=2e-5, rtol=1e-4)


def test_momentum_state_is_float32_under_bfloat16(fill) -> None:
    mixer = fill(MomentumAttention(MomentumConfig(d_head=4), 8), momentum_facts())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out, state = mixer.advance(torch.randn(1, 5, 8), mixer.initial_state(1, CPU))
    assert out.dtype == torch.bfloat16
    assert {part.dtype for part in state} == {torch.float32}


def test_the_gradient_of_a_turn_is_a_turn_back_also_twice() -> None:
    x = torch.randn(2, 3, 5, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: rotate(x, 3), x, atol=1e-4, eps=1e-4)
    assert torch.autograd.gradgradcheck(lambda x: rotate(x, 3).pow(3), x, atol=1e-4, eps=1e-4)


def test_a_turn_equals_its_definition() -> None:
    x, (a, b) = torch.randn(2, 3, 5, 8), (slice(0, 4), slice(4, 8))
    angles = (7 + torch.arange(5.0))[:, None] * 10_000.0 ** (-torch.arange(4.0) / 4)
    cos, sin = angles.cos(), angles.sin()
    expected = torch.cat((x[..., a] * cos - x[..., b] * sin, x[..., a] * sin + x[..., b] * cos), dim=-1)
    torch.testing.assert_close(rotate(x, 7), expected, rtol=0, atol=2.0**-22)


def test_a_turn_is_differentiated_by_torch_func() -> None:
    x = torch.randn(4, 3, 5, 8)
    each = torch.func.vmap(torch.func.grad(lambda x: rotate(x, 2).pow(3).sum()))(x)
    x.requires_grad_()
    torch.testing.assert_close(each, torch.autograd.grad(rotate(x, 2).pow(3).sum(), x)[0])
