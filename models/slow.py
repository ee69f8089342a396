"""Slow twins: the same mathematics as the fast paths, as plainly as it can be written, in float64."""

import torch

from models.s4d import S4DSSM


def s4d_recurrence(ssm: S4DSSM, u_BLH: torch.Tensor) -> torch.Tensor:
    """Run x' = A x + B u, y = 2 Re(C x) + D u step by step, with zero-order hold (arXiv 2206.11893)."""
    repeats = ssm.log_dt.shape[0] // ssm.A_imag.shape[0]
    dt_H1 = ssm.log_dt.double().exp()[:, None]
    A = torch.complex(-ssm.A_log_real.double().exp(), ssm.A_imag.double()).repeat_interleave(repeats, dim=0)
    B = torch.view_as_complex(ssm.B.double()).repeat_interleave(repeats, dim=0)
    C = torch.view_as_complex(ssm.C.double())
    decay_HM = torch.exp(dt_H1 * A)
    drive_HM = (decay_HM - 1) / A * B
    x_BHM = torch.zeros(u_BLH.shape[0], *decay_HM.shape, dtype=decay_HM.dtype)
    outputs = []
    for u_BH in u_BLH.double().unbind(1):
        x_BHM = decay_HM * x_BHM + drive_HM * u_BH[..., None]
        outputs.append(2 * (C * x_BHM).sum(-1).real + ssm.D.double() * u_BH)
    return torch.stack(outputs, dim=1)
