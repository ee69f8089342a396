"""The FFT convolution: sizes, its own adjoint, higher derivatives, padding."""

import pytest
import torch

from models.convolution import causal_convolution, fft_length, two_sided_convolution


def direct(u_BLH: torch.Tensor, k_CHL: torch.Tensor) -> torch.Tensor:
    L = u_BLH.shape[1]
    rows = [torch.einsum("chl,blh->bch", k_CHL[..., : t + 1].flip(-1), u_BLH[:, : t + 1]) for t in range(L)]
    return torch.stack(rows, dim=-1)


def inputs(length: int, *, channels: int = 3, outputs: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(length)
    u_BLH = torch.randn(2, length, channels, generator=generator, dtype=torch.float64)
    k_CHL = torch.randn(outputs, channels, length, generator=generator, dtype=torch.float64)
    return u_BLH.requires_grad_(), k_CHL.requires_grad_()


@pytest.mark.parametrize("length", [1, 2, 3, 17, 64])
def test_equals_the_sum_that_defines_it(length: int) -> None:
    torch.testing.assert_close(causal_convolution(*inputs(length)), direct(*inputs(length)))


@pytest.mark.parametrize("length", [1, 2, 7])
def test_adjoint_and_second_derivatives_agree_with_finite_differences(length: int) -> None:
    assert torch.autograd.gradcheck(causal_convolution, inputs(length))
    assert torch.autograd.gradgradcheck(causal_convolution, inputs(length))


def test_two_sided_gradients_agree_with_finite_differences() -> None:
    u_BLH, k_CHL = inputs(5)
    ahead_CHL = inputs(5)[1].flip(0).detach().requires_grad_()
    assert torch.autograd.gradcheck(two_sided_convolution, (u_BLH, k_CHL, ahead_CHL))


def test_many_blocks_of_channels_equal_one(monkeypatch) -> None:
    u_BLH, k_CHL = inputs(17, channels=5)
    whole = torch.autograd.grad(causal_convolution(u_BLH, k_CHL).square().sum(), (u_BLH, k_CHL))
    monkeypatch.setattr("models.convolution._BLOCK_BYTES", 1)
    blocks = torch.autograd.grad(causal_convolution(u_BLH, k_CHL).square().sum(), (u_BLH, k_CHL))
    torch.testing.assert_close(blocks, whole)


def test_later_inputs_do_not_change_earlier_outputs() -> None:
    u_BLH, k_CHL = inputs(64)
    changed = u_BLH.detach().clone()
    changed[:, 40:] = 3.0
    difference = causal_convolution(changed, k_CHL)[..., :40] - causal_convolution(u_BLH, k_CHL)[..., :40]
    # an FFT spreads rounding errors over all positions: 1e-16 of numbers below 1e3
    assert difference.abs().max() <= 1e-12


@pytest.mark.parametrize("length", range(1, 400, 7))
def test_transform_sizes_are_the_next_even_smooth_numbers(length: int) -> None:
    def smooth(size: int) -> bool:
        for prime in (2, 3, 5):
            while size % prime == 0:
                size //= prime
        return size == 1

    expected = next(size for size in range(max(length, 2), 1000) if size % 2 == 0 and smooth(size))
    assert fft_length(length) == expected
