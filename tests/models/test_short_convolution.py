"""The gradient that is written out equals autograd's own, also twice and by torch.func."""

import pytest
import torch

from models.ssd.short_convolution import ShortConvolution, _SiluOfTaps, silu_of_taps


def drawn(length: int, taps: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(length)
    shapes = ((2, length + taps - 1, 3), (3, taps), (3,))
    return tuple(
        torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in shapes
    )


@pytest.mark.parametrize(("length", "taps"), [(1, 4), (2, 4), (9, 4), (5, 1), (5, 2)])
def test_values_and_gradients_equal_those_of_the_plain_form(length: int, taps: int) -> None:
    inputs = drawn(length, taps)
    assert torch.equal(_SiluOfTaps.apply(*inputs), silu_of_taps(*inputs))
    weigh = torch.randn(2, length, 3, dtype=torch.float64)
    forms = (_SiluOfTaps.apply, silu_of_taps)
    ours, plain = (torch.autograd.grad((form(*inputs) * weigh).sum(), inputs) for form in forms)
    for one, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(one, other)
    assert torch.autograd.gradgradcheck(lambda *x: _SiluOfTaps.apply(*x).pow(2), inputs)


def test_per_sample_gradients_by_torch_func() -> None:
    x, weight, bias = drawn(5, 4)

    def loss(weight: torch.Tensor, x_SI: torch.Tensor) -> torch.Tensor:
        return _SiluOfTaps.apply(x_SI[None], weight, bias).pow(2).sum()

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(weight, x)
    for sample, found in zip(x, each, strict=True):
        torch.testing.assert_close(found, torch.autograd.grad(loss(weight, sample), weight)[0])


def test_chunks_continue_where_the_last_one_ended() -> None:
    layer, x, zeros = ShortConvolution(3, 4), torch.randn(2, 9, 3), torch.zeros(2, 3, 3)
    torch.nn.init.normal_(layer.weight)
    torch.nn.init.normal_(layer.bias)
    whole, last = layer(x, zeros)
    first, before = layer(x[:, :2], zeros)
    rest, end = layer(x[:, 2:], before)
    torch.testing.assert_close(torch.cat((first, rest), dim=1), whole)
    assert torch.equal(end, last)
