"""Gradients that are written out, and what is computed again, equal autograd's own, also twice."""

import pytest
import torch

from models.layers import RMSNorm
from models.ssd.gated_norm import GatedNorm, _GatedNorm, gated_norm
from models.ssd.scan import _Inside, inside


def drawn(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in shapes
    ]


def check(ours, plain, inputs: list[torch.Tensor]) -> None:
    torch.testing.assert_close(ours(*inputs), plain(*inputs))
    weigh = torch.randn_like(plain(*inputs))
    found, expected = (torch.autograd.grad((form(*inputs) * weigh).sum(), inputs) for form in (ours, plain))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    assert torch.autograd.gradgradcheck(lambda *x: ours(*x).pow(2), inputs)


def test_the_gated_norm_equals_its_plain_form() -> None:
    check(_GatedNorm.apply, gated_norm, drawn((2, 3, 5), (2, 3, 5), (5,)))


def test_weights_within_chunks_equal_their_plain_form() -> None:
    steps, scores, x = drawn((2, 3, 2, 4), (2, 2, 4, 4), (2, 3, 2, 4, 5))
    sums = -steps.detach().abs().cumsum(-1).requires_grad_()
    check(_Inside.apply, inside, [sums, scores, x])


def test_it_is_the_rms_norm_of_what_is_gated() -> None:
    y, gate, weight = (part.detach().float() for part in drawn((2, 3, 5), (2, 3, 5), (5,)))
    ours, theirs = GatedNorm(5), RMSNorm(5)
    ours.weight.data, theirs.weight.data = weight, weight
    torch.testing.assert_close(ours(y, gate), theirs(y * torch.nn.functional.silu(gate)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_gradients_come_in_the_dtype_of_what_they_are_of(dtype: torch.dtype) -> None:
    y, gate = (part.detach().to(dtype).requires_grad_() for part in drawn((2, 3, 5), (2, 3, 5)))
    layer = GatedNorm(5)
    torch.nn.init.ones_(layer.weight)
    out = layer(y, gate)
    assert out.dtype == torch.float32
    out.square().sum().backward()
    assert y.grad is not None
    assert gate.grad is not None
    assert (y.grad.dtype, gate.grad.dtype) == (dtype, dtype)
