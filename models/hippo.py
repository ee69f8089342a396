"""HiPPO matrices and their diagonal forms (arXiv 2008.07669, 2111.00396, 2206.11893), in float64."""

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class NormalPlusLowRank:
    """A normal matrix minus P P^*, in the eigenbasis of the normal part: one of each conjugate pair."""

    eigenvalues: torch.Tensor  # (N/2) complex128, ascending (negative) imaginary parts
    P: torch.Tensor  # (N/2) complex128
    B: torch.Tensor  # (N/2) complex128


def legs(d_state: int) -> tuple[torch.Tensor, torch.Tensor]:
    """HiPPO-LegS (A, B) in float64: A lower triangular, A_nn = -(n+1), B_n = sqrt(2n+1)."""
    n = torch.arange(d_state, dtype=torch.float64)
    root = torch.sqrt(2 * n + 1)
    A = -torch.tril(root[:, None] * root, diagonal=-1) - torch.diag(n + 1)
    return A, root


def legs_normal_plus_low_rank(d_state: int) -> NormalPlusLowRank:
    """LegS = V (Lambda - P P^*) V^* with P_n = sqrt(n + 1/2): A + P P^T is -1/2 plus a skew matrix.

    Eigenvectors are free up to a phase, fixed here by making P real and positive. B = sqrt(2) P follows.
    """
    A, B = legs(d_state)
    P = torch.sqrt(torch.arange(d_state, dtype=torch.float64) + 0.5)
    skew = A + P[:, None] * P + 0.5 * torch.eye(d_state, dtype=torch.float64)
    imag, V = torch.linalg.eigh(skew * -1j)  # ascending: the first half has negative imaginary parts
    imag, V = imag[: d_state // 2], V[:, : d_state // 2]
    projected = V.mH @ P.to(V.dtype)
    phase = projected / projected.abs()
    real = torch.full_like(imag, -0.5)
    return NormalPlusLowRank(
        eigenvalues=torch.complex(real, imag),
        P=projected / phase,
        B=(V.mH @ B.to(V.dtype)) / phase,
    )


def lin(d_state: int) -> torch.Tensor:
    """S4D-Lin: -1/2 + i pi n (arXiv 2206.11893, eq. 9)."""
    n = torch.arange(d_state // 2, dtype=torch.float64)
    return torch.complex(torch.full_like(n, -0.5), math.pi * n)


def inv(d_state: int) -> torch.Tensor:
    """S4D-Inv: -1/2 + i (N/pi) (N/(2n+1) - 1) (arXiv 2206.11893, eq. 8)."""
    n = torch.arange(d_state // 2, dtype=torch.float64)
    return torch.complex(torch.full_like(n, -0.5), d_state / math.pi * (d_state / (2 * n + 1) - 1))
