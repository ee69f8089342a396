"""Initial state matrices, float64: HiPPO (arXiv 2008.07669, 2206.12037) and diagonal ones (2206.11893).

Letters: N d_state, M = N/2 conjugate pairs, R rank.
"""

import math
from dataclasses import dataclass
from typing import final

import torch


@final
@dataclass(frozen=True, slots=True)
class NormalPlusLowRank:
    """Lambda - P^T P^* and B in the eigenbasis of the normal part, one of each conjugate pair; complex128."""

    eigenvalues: torch.Tensor  # (M)
    P: torch.Tensor  # (R, M)
    B: torch.Tensor  # (M)


def legs_matrices(d_state: int) -> tuple[torch.Tensor, torch.Tensor]:
    """HiPPO-LegS, A (N, N) and B (N).

    A is lower triangular, A_nk = -sqrt((2n+1)(2k+1)), A_nn = -(n+1); B_n = sqrt(2n+1).
    """
    n = torch.arange(d_state, dtype=torch.float64)
    root = torch.sqrt(2 * n + 1)
    return -torch.tril(root[:, None] * root, diagonal=-1) - torch.diag(n + 1), root


def legt_matrices(d_state: int) -> tuple[torch.Tensor, torch.Tensor]:
    """HiPPO-LegT, A (N, N) and B (N), of a window of one: LegS below the diagonal, signs (-1)^(n-k) above."""
    n = torch.arange(d_state, dtype=torch.float64)
    root = torch.sqrt(2 * n + 1)
    signs = torch.where(n[:, None] < n, (-1.0) ** (n[:, None] - n), 1.0)
    return -root[:, None] * signs * root, root


def legs(d_state: int) -> NormalPlusLowRank:
    """LegS: with P_n = sqrt(n + 1/2), A + P P^T is -1/2 plus a skew matrix. B = sqrt(2) P."""
    A, B = legs_matrices(d_state)
    return _diagonalise(A, B, (B / math.sqrt(2))[None])


def legt(d_state: int) -> NormalPlusLowRank:
    """LegT: two rows of P, B's odd and even entries, make A + P^T P skew."""
    A, B = legt_matrices(d_state)
    odd = torch.arange(d_state) % 2
    return _diagonalise(A, B, torch.stack((B * odd, B * (1 - odd))))


def fout(d_state: int) -> NormalPlusLowRank:
    """FouT (arXiv 2206.12037, theorem 6), a truncated Fourier basis: its normal part is diagonal."""
    k = torch.arange(d_state // 2, dtype=torch.float64)
    P = torch.where(k == 0, 1.0, math.sqrt(2)).to(torch.complex128)
    return NormalPlusLowRank(torch.complex(0 * k, -2 * math.pi * k), P[None], math.sqrt(2) * P)


def _diagonalise(A: torch.Tensor, B: torch.Tensor, P: torch.Tensor) -> NormalPlusLowRank:
    """Eigenvectors are free up to a phase, fixed here by making the first row of P real and positive."""
    # N=4: normal is (4, 4), -1/2 (LegS) or 0 (LegT) times the identity plus a skew matrix, which times
    # -i is Hermitian: eigh gives orthonormal vectors. Two of the four are kept; the others are conjugates.
    half = A.shape[0] // 2
    normal = A + P.T @ P
    real = normal.diagonal().mean()
    skew = (normal - normal.T) / 2
    imag, V = torch.linalg.eigh(skew * -1j)  # ascending: the first half has negative imaginary parts
    V = V[:, :half]
    first = P[0].to(V.dtype) @ V.conj()
    V = V * (first / first.abs())
    return NormalPlusLowRank(
        torch.complex(real.expand(half), imag[:half]), P.to(V.dtype) @ V.conj(), V.mH @ B.to(V.dtype)
    )


def lin(d_state: int) -> torch.Tensor:
    """S4D-Lin (M): -1/2 + i pi n (arXiv 2206.11893, eq. 9)."""
    n = torch.arange(d_state // 2, dtype=torch.float64)
    return torch.complex(torch.full_like(n, -0.5), math.pi * n)


def inv(d_state: int) -> torch.Tensor:
    """S4D-Inv (M): -1/2 + i (N/pi) (N/(2n+1) - 1) (arXiv 2206.11893, eq. 8)."""
    n = torch.arange(d_state // 2, dtype=torch.float64)
    return torch.complex(torch.full_like(n, -0.5), d_state / math.pi * (d_state / (2 * n + 1) - 1))


def real(d_state: int) -> torch.Tensor:
    """S4D-Real (M): -(n + 1) (arXiv 2206.11893, section 4.2)."""
    n = torch.arange(d_state // 2, dtype=torch.float64)
    return torch.complex(-(n + 1), 0 * n)
