"""HiPPO constants measured on the reference, and the identities behind them."""

import pytest
import torch

from models import hippo


@pytest.mark.parametrize(
    ("d_state", "imag"),
    [(4, [-4.60329, -0.55650]), (8, [-19.85741, -5.35421, -1.95779, -0.42749])],
)
def test_legs_eigenvalues_are_the_published_ones(d_state: int, imag: list[float]) -> None:
    found = hippo.legs_normal_plus_low_rank(d_state).eigenvalues
    torch.testing.assert_close(found.imag, torch.tensor(imag, dtype=torch.float64), atol=6e-6, rtol=0)
    torch.testing.assert_close(found.real, torch.full_like(found.real, -0.5))


def test_legs_of_size_64_has_the_published_ends_and_low_rank_part() -> None:
    form = hippo.legs_normal_plus_low_rank(64)
    assert form.eigenvalues.imag[0].item() == pytest.approx(-1303.2738, abs=1e-4)
    assert form.eigenvalues.imag[-1].item() == pytest.approx(-0.26386, abs=1e-5)
    assert form.P.abs()[0].item() == pytest.approx(28.81590, abs=1e-5)
    assert form.P.abs()[-1].item() == pytest.approx(0.42038, abs=1e-5)


@pytest.mark.parametrize("d_state", [4, 8, 64])
def test_low_rank_part_has_a_quarter_of_n_squared(d_state: int) -> None:
    P = hippo.legs_normal_plus_low_rank(d_state).P
    assert P.abs().square().sum().item() == pytest.approx(d_state**2 / 4)


def test_diagonal_plus_low_rank_form_has_the_transfer_function_of_legs() -> None:
    # C (s - A)^-1 B with C = B, at a few points s, in the original and in the transformed basis
    d_state = 8
    A, B = hippo.legs(d_state)
    form = hippo.legs_normal_plus_low_rank(d_state)
    full = [torch.cat((v, v.conj())) for v in (form.eigenvalues, form.P, form.B)]
    A_transformed = torch.diag(full[0]) - full[1][:, None] * full[1].conj()
    for s in (0.3, 2.0 + 1.0j, 10.0j):
        eye = torch.eye(d_state, dtype=torch.complex128)
        expected = B.to(eye.dtype) @ torch.linalg.solve(s * eye - A, B.to(eye.dtype))
        found = full[2].conj() @ torch.linalg.solve(s * eye - A_transformed, full[2])
        torch.testing.assert_close(found, expected)
