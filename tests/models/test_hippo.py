"""HiPPO constants measured on the reference, and the identities that they follow from."""

import math

import pytest
import torch

from models import hippo


@pytest.mark.parametrize(
    ("d_state", "imag"),
    [(4, [-4.60329, -0.55650]), (8, [-19.85741, -5.35421, -1.95779, -0.42749])],
)
def test_legs_eigenvalues_are_the_published_ones(d_state: int, imag: list[float]) -> None:
    found = hippo.legs(d_state).eigenvalues
    torch.testing.assert_close(found.imag, torch.tensor(imag, dtype=torch.float64), atol=6e-6, rtol=0)
    torch.testing.assert_close(found.real, torch.full_like(found.real, -0.5))


def test_legs_of_size_64_has_the_published_ends_and_low_rank_part() -> None:
    form = hippo.legs(64)
    assert form.eigenvalues.imag[0].item() == pytest.approx(-1303.2738, abs=1e-4)
    assert form.eigenvalues.imag[-1].item() == pytest.approx(-0.26386, abs=1e-5)
    assert form.P.abs()[0, 0].item() == pytest.approx(28.81590, abs=1e-5)
    assert form.P.abs()[0, -1].item() == pytest.approx(0.42038, abs=1e-5)


@pytest.mark.parametrize("d_state", [4, 8, 64])
def test_low_rank_part_has_a_quarter_of_n_squared(d_state: int) -> None:
    P = hippo.legs(d_state).P
    assert P.abs().square().sum().item() == pytest.approx(d_state**2 / 4)


@pytest.mark.parametrize(
    ("form", "matrices"), [(hippo.legs, hippo.legs_matrices), (hippo.legt, hippo.legt_matrices)]
)
def test_diagonal_plus_low_rank_form_has_the_transfer_function_of_its_measure(form, matrices) -> None:
    # C (s - A)^-1 B with C = B, at a few points s, in the original and in the transformed basis
    d_state = 8
    A, B = matrices(d_state)
    found = form(d_state)
    Lambda, P, V_B = (torch.cat((v, v.conj()), dim=-1) for v in (found.eigenvalues, found.P, found.B))
    A_transformed = torch.diag(Lambda) - P.T @ P.conj()
    for s in (0.3, 2.0 + 1.0j, 10.0j):
        eye = torch.eye(d_state, dtype=torch.complex128)
        expected = B.to(eye.dtype) @ torch.linalg.solve(s * eye - A, B.to(eye.dtype))
        torch.testing.assert_close(V_B.conj() @ torch.linalg.solve(s * eye - A_transformed, V_B), expected)


def test_fout_has_the_matrix_of_its_paper() -> None:
    # arXiv 2206.12037, theorem 6, with states in the order cos 0, sin 0 (always zero), cos 1, sin 1, ...
    d_state = 8
    first = torch.arange(d_state) // 2
    cos = torch.where(torch.arange(d_state) % 2 == 0, torch.where(first == 0, 1.0, 2**0.5), 0.0).double()
    A = -2 * cos[:, None] * cos
    for k in range(1, d_state // 2):
        A[2 * k, 2 * k + 1], A[2 * k + 1, 2 * k] = -2 * math.pi * k, 2 * math.pi * k
    B = 2 * cos
    found = hippo.fout(d_state)
    Lambda, P, V_B = (torch.cat((v, v.conj()), dim=-1) for v in (found.eigenvalues, found.P, found.B))
    for s in (0.3, 2.0 + 1.0j, 10.0j):
        eye = torch.eye(d_state, dtype=torch.complex128)
        expected = B.to(eye.dtype) @ torch.linalg.solve(s * eye - A, B.to(eye.dtype))
        A_transformed = torch.diag(Lambda) - P.T @ P.conj()
        torch.testing.assert_close(V_B.conj() @ torch.linalg.solve(s * eye - A_transformed, V_B), expected)


def test_diagonal_starts_are_those_of_the_paper() -> None:
    assert hippo.lin(6).tolist() == [complex(-0.5, math.pi * n) for n in range(3)]
    assert hippo.real(6).tolist() == [-1, -2, -3]
    torch.testing.assert_close(
        hippo.inv(6).imag,
        torch.tensor([6 / math.pi * (6 / odd - 1) for odd in (1, 3, 5)], dtype=torch.float64),
    )
