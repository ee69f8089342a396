"""Diagonal systems: every mode on its own."""

from dataclasses import dataclass
from typing import final

import torch

from models.ssm.series import series
from models.ssm.system import Recurrence, System, mode_blocks, powers, tables, two_levels


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
        return torch.cat((k_CHL[..., :1] + self.D[..., None], k_CHL[..., 1:]), dim=-1)

    def respond(self, x_BHN: torch.Tensor, length: int) -> torch.Tensor:
        e_re, e_im = self.z_re.exp() * self.z_im.cos(), self.z_re.exp() * self.z_im.sin()
        x_re, x_im = x_BHN.double().chunk(2, dim=-1)
        x_re, x_im = e_re * x_re - e_im * x_im, e_re * x_im + e_im * x_re  # one step on: (B, H, M)
        q_re = self.c_re * x_re[:, None] - self.c_im * x_im[:, None]  # (B, C, H, M)
        q_im = self.c_re * x_im[:, None] + self.c_im * x_re[:, None]
        q_re, q_im = q_re.flatten(0, 1), q_im.flatten(0, 1)
        y = series(self.z_re, self.z_im, q_re, q_im, length, self.D.dtype)
        return y.unflatten(0, (x_BHN.shape[0], self.c_re.shape[0]))

    def absorb(self, u_BHL: torch.Tensor, x_BHN: torch.Tensor) -> torch.Tensor:
        B, H, L = u_BHL.shape
        inner, outer = two_levels(L)
        # newest first, so that entry l is multiplied by exp(z l)
        v_BHL = torch.nn.functional.pad(u_BHL.flip(-1), (0, inner * outer - L))
        v = v_BHL.unflatten(-1, (outer, inner)).transpose(0, 1).flatten(1, 2)  # (H, B I, S)
        e_re, e_im, p_re, p_im = tables(self.z_re, self.z_im, inner, outer, u_BHL.dtype)
        w_re = torch.bmm(v, e_re.transpose(1, 2)).unflatten(1, (B, outer))  # (H, B, I, M)
        w_im = torch.bmm(v, e_im.transpose(1, 2)).unflatten(1, (B, outer))
        p_re, p_im = p_re.transpose(1, 2)[:, None], p_im.transpose(1, 2)[:, None]  # (H, 1, I, M)
        sum_re, sum_im = (w_re * p_re - w_im * p_im).sum(2), (w_re * p_im + w_im * p_re).sum(2)
        all_steps = torch.full((1,), L, dtype=torch.float64, device=u_BHL.device)
        f_re, f_im = (t[..., 0] for t in powers(self.z_re, self.z_im, all_steps, u_BHL.dtype))
        x_re, x_im = x_BHN.chunk(2, dim=-1)
        x_re, x_im = f_re * x_re - f_im * x_im, f_re * x_im + f_im * x_re
        return torch.cat((x_re + sum_re.transpose(0, 1), x_im + sum_im.transpose(0, 1)), dim=-1)

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

    What it adds to an output, 2 N (two per entry of a product) and twice that backward; the state behind the
    window, 2 N, which has no backward.
    """
    return 6.0 * num_states * channels + 2.0 * num_states
