"""The fused output map against its plain form."""

import pytest
import torch
from torch import nn

from models.ssm.output import gelu_linear_glu


def inputs(length: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(length)
    shapes = ((2, 3, length), (4, 3), (4,))
    return [torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes]


def plain(y_BXL: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return nn.functional.glu(
        nn.functional.linear(nn.functional.gelu(y_BXL.transpose(1, 2)), weight, bias), dim=-1
    )


@pytest.mark.parametrize("length", [1, 7, 300])  # 300 is more than a block
def test_equals_the_plain_form_and_so_do_its_gradients(length: int) -> None:
    x = inputs(length)
    torch.testing.assert_close(gelu_linear_glu(*x), plain(*x))
    weights = torch.randn(2, length, 2, dtype=torch.float64)
    found = torch.autograd.grad((gelu_linear_glu(*x) * weights).sum(), x)
    torch.testing.assert_close(found, torch.autograd.grad((plain(*x) * weights).sum(), x))


def test_second_derivatives_agree_with_finite_differences() -> None:
    assert torch.autograd.gradgradcheck(gelu_linear_glu, inputs(3))


def test_per_sample_gradients_are_those_of_each_sample() -> None:
    y_BXL, weight, bias = (x.detach() for x in inputs(5))

    def loss(weight: torch.Tensor, y_XL: torch.Tensor) -> torch.Tensor:
        return gelu_linear_glu(y_XL[None], weight, bias).square().sum()

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(weight, y_BXL)
    for index in range(2):
        torch.testing.assert_close(each[index], torch.func.grad(loss)(weight, y_BXL[index]))


def test_autocast_gives_the_plain_form_in_bfloat16() -> None:
    x = [part.detach().float() for part in inputs(9)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert gelu_linear_glu(*x).dtype == torch.bfloat16
        torch.testing.assert_close(gelu_linear_glu(*x), plain(*x), atol=0.05, rtol=0.05)
