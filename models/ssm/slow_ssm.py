"""Slow references: every state-space layer as a float64 recurrence over its paper's own complex matrices.

Whole state matrices with both halves of every conjugate pair, general solves, one step after the other.
"""

import torch

from models.ssm.dss import DSS
from models.ssm.s4 import S4
from models.ssm.s4d import S4D

Complex = torch.Tensor


def recurrence(ssm: S4 | S4D | DSS, u_BLH: torch.Tensor) -> torch.Tensor:
    """Causal outputs (B, C H, L) of x' = Abar x + Bbar u, y = Re(C x) + D u, starting at zero."""
    A_bar, B_bar, C = discrete(ssm)
    D = ssm.D.double().T
    x_BHN = torch.zeros(u_BLH.shape[0], *B_bar.shape, dtype=B_bar.dtype)
    outputs = []
    for u_BH in u_BLH.double().unbind(1):
        x_BHN = torch.einsum("hnm,bhm->bhn", A_bar, x_BHN) + B_bar * u_BH[..., None]
        outputs.append(torch.einsum("chn,bhn->bch", C, x_BHN).real + D * u_BH[:, None])
    return torch.stack(outputs, dim=-1).flatten(1, 2)


def discrete(ssm: S4 | S4D | DSS) -> tuple[Complex, Complex, Complex]:
    """(A, B, C) after discretisation: (H, N, N), (H, N), (C, H, N), complex128."""
    H, dt_H1 = ssm.log_dt.shape[0], ssm.log_dt.double().exp()[:, None]
    if isinstance(ssm, DSS):
        return _dss(ssm, dt_H1)
    A = torch.complex(-_rate(ssm), ssm.A_imag.double())
    A, B, C = _both(_spread(A, H)), _both(_spread(_stored(ssm.B), H)), _both(_stored(ssm.C.transpose(0, 1)))
    if isinstance(ssm, S4):
        P = _both(_spread(_stored(ssm.P), H))
        state = torch.diag_embed(A) - torch.einsum("hrn,hrm->hnm", P, P.conj())
        return *_bilinear(state, B, dt_H1), C
    if ssm.disc == "bilinear":
        return *_bilinear(torch.diag_embed(A), B, dt_H1), C
    decay = torch.exp(dt_H1 * A)
    return torch.diag_embed(decay), (decay - 1) / A * B, C


def _rate(ssm: S4 | S4D) -> torch.Tensor:
    a = ssm.A_log_real.double()
    transforms = {
        "exp": a.exp(),
        "softplus": (1 + a.exp()).log(),
        "relu": a.clamp(min=0) + 1e-4,
        "sigmoid": 1 / (1 + (-a).exp()),
    }
    return transforms[ssm.real_transform]


def _dss(ssm: DSS, dt_H1: torch.Tensor) -> tuple[Complex, Complex, Complex]:
    real = ssm.A_real.double() if ssm.max_length is not None else -ssm.A_real.double().exp()
    A = _spread(torch.complex(real, ssm.A_imag.double()), dt_H1.shape[0])
    decay = torch.exp(dt_H1 * A)
    if ssm.max_length is None:
        return torch.diag_embed(decay), (decay - 1) / A, _stored(ssm.C.transpose(0, 1))
    total = sum(decay**step for step in range(ssm.max_length))
    return torch.diag_embed(decay), 1 / (A * total), _stored(ssm.C.transpose(0, 1))


def _bilinear(A: Complex, B: Complex, dt_H1: torch.Tensor) -> tuple[Complex, Complex]:
    eye, half = torch.eye(A.shape[-1], dtype=A.dtype), dt_H1[..., None] / 2 * A
    B_bar = torch.linalg.solve(eye - half, (dt_H1 * B)[..., None])[..., 0]
    return torch.linalg.solve(eye - half, eye + half), B_bar


def _stored(x: torch.Tensor) -> Complex:
    return torch.view_as_complex(x.double().contiguous())


def _spread(x: Complex, num_channels: int) -> Complex:
    return x.repeat_interleave(num_channels // x.shape[0], dim=0)


def _both(x: Complex) -> Complex:
    return torch.cat((x, x.conj()), dim=-1)
