"""The two-level Vandermonde product against its definition, and its adjoint."""

import pytest
import torch

from models.ssm.series import series


def inputs(num_series: int = 2) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    z_re = -torch.rand(3, 2, generator=generator, dtype=torch.float64)
    z_im = 4 * torch.randn(3, 2, generator=generator, dtype=torch.float64)
    c = torch.randn(2, num_series, 3, 2, generator=generator, dtype=torch.float64)
    return [x.requires_grad_() for x in (z_re, z_im, c[0].clone(), c[1].clone())]


@pytest.mark.parametrize("length", [1, 2, 3, 17, 64, 100])
def test_equals_the_sum_that_defines_it(length: int) -> None:
    z_re, z_im, c_re, c_im = inputs()
    powers = torch.exp(torch.complex(z_re, z_im)[..., None] * torch.arange(length))
    expected = torch.einsum("khm,hml->khl", torch.complex(c_re, c_im), powers).real
    torch.testing.assert_close(series(z_re, z_im, c_re, c_im, length, torch.float64), expected)


@pytest.mark.parametrize("length", [1, 3, 11])
def test_adjoint_and_second_derivatives_agree_with_finite_differences(length: int) -> None:
    def run(*x: torch.Tensor) -> torch.Tensor:
        return series(*x, length, torch.float64)

    assert torch.autograd.gradcheck(run, inputs())
    assert torch.autograd.gradgradcheck(run, inputs(1))


def test_many_blocks_of_channels_equal_one(monkeypatch) -> None:
    x = inputs()
    whole = torch.autograd.grad(series(*x, 20, torch.float64).square().sum(), x)
    monkeypatch.setattr("models.ssm.series._BLOCK_NUMBERS", 1)
    blocks = torch.autograd.grad(series(*x, 20, torch.float64).square().sum(), x)
    torch.testing.assert_close(blocks, whole)
