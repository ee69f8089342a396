"""Diagonal systems: every mode on its own."""

from dataclasses import dataclass
from typing import final

import torch

from models.ssm.series import series, totals
from models.ssm.system import Recurrence, System, add_skip, mode_blocks, one_step, powers, two_levels


@final
@dataclass(frozen=True, slots=True)
class DiagonalSystem(System):
    """x_m(l) = exp(z_m) x_m(l-1) + u(l), y_c(l) = Re sum_m c_cm x_m(l) + D_c u(l). All but D float64."""

    z_re: torch.Tensor  # (H, M)
    z_im: torch.Tensor
    c_re: torch.Tensor  # (C, H, M), with B and the factor of a conjugate pair in it
    c_im: torch.Tensor
    D: torch.Tensor  # (C, H), of the dtype to compute in

    def kernel(self, length: int) -> torch.Tensor:
        k_CHL = series(self.z_re, self.z_im, self.c_re, self.c_im, length, self.D.dtype)
        return add_skip(k_CHL, self.D)

    def carry(
        self, u_BHL: torch.Tensor, x_BHN: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        (B, _, L), C, dtype = u_BHL.shape, self.c_re.shape[0], self.D.dtype
        # B=2, C=1, H=4, M=3, L=8: the kernel's coefficients c (1, 4, 3) and c times the state one step on,
        # (2, 1, 4, 3), go through one series of K = 1 + 2 * 1 rows: (3, 4, 8).
        e_re, e_im = one_step(self.z_re, self.z_im)
        x_re, x_im = x_BHN.double().chunk(2, dim=-1)
        s_re, s_im = e_re * x_re - e_im * x_im, e_re * x_im + e_im * x_re  # one step on: (B, H, M)
        q_re = self.c_re * s_re[:, None] - self.c_im * s_im[:, None]  # (B, C, H, M)
        q_im = self.c_re * s_im[:, None] + self.c_im * s_re[:, None]
        # one evaluation for the kernel and the responses: each is a sum of the same modes
        q_re, q_im = torch.cat((self.c_re, q_re.flatten(0, 1))), torch.cat((self.c_im, q_im.flatten(0, 1)))
        k_CHL, added = series(self.z_re, self.z_im, q_re, q_im, L, dtype).split((C, B * C))
        t_re, t_im = totals(self.z_re, self.z_im, u_BHL)
        all_steps = torch.full((1,), L, dtype=torch.float64, device=u_BHL.device)
        f_re, f_im = (t[..., 0] for t in powers(self.z_re, self.z_im, all_steps, dtype))
        x_re, x_im = x_BHN.chunk(2, dim=-1)
        after_BHN = torch.cat((t_re + f_re * x_re - f_im * x_im, t_im + f_re * x_im + f_im * x_re), dim=-1)
        return add_skip(k_CHL, self.D), added.unflatten(0, (B, C)), after_BHN

    def recurrence(self) -> Recurrence:
        dtype, (H, M) = self.D.dtype, self.z_re.shape
        decay, turn = mode_blocks(self.z_re, self.z_im, dtype)
        return Recurrence(
            decay=decay,
            turn=turn,
            U=self.D.new_zeros(H, 2 * M, 0),
            V=self.D.new_zeros(H, 0, 2 * M),
            b=torch.cat((self.D.new_ones(H, M), self.D.new_zeros(H, M)), dim=-1),
            c=torch.cat((self.c_re, -self.c_im), dim=-1).to(dtype),
            D=self.D,
        )


def diagonal_carry_flops(num_states: int, channels: int) -> float:
    """Training FLOPs per token and channel of a carried state of N real numbers.

    What it adds to an output, 2 N (two per entry of a product) and twice that backward; the state after the
    window, 2 N, which has no backward.
    """
    return 6.0 * num_states * channels + 2.0 * num_states


def diagonal_footprint(num_modes: int, d_model: int, kernels: int, tensors: int) -> float:
    """Bytes that discretising keeps: `tensors` of (H, M), and four for each kernel, all float64."""
    return 8.0 * d_model * (num_modes * (tensors + 4 * kernels) + 2)


def diagonal_kernel_flops(num_modes: int, kernels: int, length: int) -> float:
    """Forward FLOPs of a channel's kernels: two tables of powers, multiplied (models/ssm/series.py)."""
    inner, outer = two_levels(length)
    return 4.0 * kernels * num_modes * inner * outer
