"""Diagonal plus low rank systems of any length, without Cauchy kernels.

In the real coordinates [Re x; Im x] the discrete state matrix is A = E + U V^T: E block-diagonal, exp(z) in
each mode, and R columns. So A^n = E^n + sum_{a+b=n-1} (E^a U) (V^T A^b) is E^n plus n R columns, and doubling

    A^w X = E^w X + [E^(w-1) U ... U] ([V^T; ...; V^T A^(w-1)] X)

gives A^j b and V^T A^j for j < S in log2(S) steps. The powers E^a are exact (angles reduced in float64): that
is what keeps float32 accurate. From A^S on, A^(S i) is dense, and doubles by squaring.
"""

from dataclasses import dataclass
from typing import final

import torch

from models.ssm.system import Recurrence, System, powers, times_modes, two_levels


@final
@dataclass(frozen=True, slots=True)
class LowRankSystem(System):
    """x(l) = (E + U V^T) x(l-1) + b u(l), y_c(l) = c x(l) + D_c u(l). All but D float64."""

    z_re: torch.Tensor  # (H, M)
    z_im: torch.Tensor
    U: torch.Tensor  # (H, N, R)
    V: torch.Tensor  # (H, R, N)
    b: torch.Tensor  # (H, N)
    c: torch.Tensor  # (C, H, N)
    D: torch.Tensor  # (C, H), of the dtype to compute in

    def kernel(self, length: int) -> torch.Tensor:
        blocks = Blocks.of(self, length)
        k_CHL = blocks.outputs(self.b.to(self.D.dtype)[..., None])[0, ..., :length]
        return torch.cat((k_CHL[..., :1] + self.D[..., None], k_CHL[..., 1:]), dim=-1)

    def respond(self, x_BHN: torch.Tensor, length: int) -> torch.Tensor:
        x_HNB = x_BHN.permute(1, 2, 0)
        e_re, e_im = (self.z_re.exp() * self.z_im.cos(), self.z_re.exp() * self.z_im.sin())
        stepped = times_modes(e_re[..., None], e_im[..., None], x_HNB.double())
        stepped = stepped + self.U @ (self.V @ x_HNB.double())
        return Blocks.of(self, length).outputs(stepped.to(self.D.dtype))[..., :length]

    def absorb(self, u_BHL: torch.Tensor, x_BHN: torch.Tensor) -> torch.Tensor:
        B, H, L = u_BHL.shape
        blocks = Blocks.of(self, L)
        S, whole = blocks.inner, L // blocks.inner
        # newest first: entry l = i S + j is multiplied by A^(S i) A^j b, the old state by A^L
        v_BHL = torch.nn.functional.pad(u_BHL.flip(-1), (0, S * (whole + 1) - L))
        v_HSX = v_BHL.unflatten(-1, (whole + 1, S)).permute(1, 3, 0, 2).flatten(2)  # (H, S, B I)
        b_HNS = blocks.columns(self.b.to(self.D.dtype)[..., None])
        w_IHNB = (b_HNS @ v_HSX).unflatten(-1, (B, whole + 1)).permute(3, 0, 1, 2)
        old_HNB = blocks.columns(x_BHN.permute(1, 2, 0)).unflatten(-1, (B, S))[..., L - whole * S]
        terms = [*w_IHNB[:-1], w_IHNB[-1] + old_HNB]
        dense = blocks.dense
        while len(terms) > 1:  # sum_i A^(S i) w_i, neighbours first
            if len(terms) % 2:
                terms.append(torch.zeros_like(terms[0]))
            terms = [even + dense @ odd for even, odd in zip(terms[::2], terms[1::2], strict=True)]
            dense = dense @ dense
        return terms[0].permute(2, 0, 1)

    def recurrence(self) -> Recurrence:
        dtype, size = self.D.dtype, self.z_re.exp()
        re, im = (size * self.z_im.cos()).to(dtype), (size * self.z_im.sin()).to(dtype)
        U, V, b, c = (t.to(dtype) for t in (self.U, self.V, self.b, self.c))
        return Recurrence(re, im, U, V, b, c, self.D)


@final
@dataclass(frozen=True, slots=True)
class Blocks:
    """Powers of a system's state matrix below S, as columns and rows, and A^S itself."""

    inner: int  # S
    outer: int  # I, blocks of S that cover the length
    e_re: torch.Tensor  # (H, M, S + 1): powers of E
    e_im: torch.Tensor
    U: torch.Tensor  # (H, N, S R): E^(S-1) U ... U
    V: torch.Tensor  # (H, S R, N): V^T; ...; V^T A^(S-1)
    dense: torch.Tensor  # (H, N, N): A^S
    c: torch.Tensor  # (H, C, N)

    @classmethod
    def of(cls, system: LowRankSystem, length: int) -> "Blocks":
        """Prepare for sequences of this length."""
        dtype = system.D.dtype
        H, R, N = system.V.shape
        # at least N inner steps: below that, columns are cheaper than squared matrices
        least = min(1 << (N - 1).bit_length(), 1 << (length - 1).bit_length())
        inner, outer = two_levels(length, least)
        steps = torch.arange(inner + 1, dtype=torch.float64, device=system.z_re.device)
        e_re, e_im = powers(system.z_re, system.z_im, steps, dtype)
        U, V = system.U.to(dtype), system.V.to(dtype)
        back_re, back_im = e_re[..., :inner].flip(-1)[..., None], e_im[..., :inner].flip(-1)[..., None]
        U_re, U_im = U[:, : N // 2, None], U[:, N // 2 :, None]  # (H, M, 1, R)
        U_HNX = torch.cat((back_re * U_re - back_im * U_im, back_re * U_im + back_im * U_re), dim=1).flatten(
            2
        )
        rows, width = V, 1
        while width < inner:
            # V^T A^(w+j) = (V^T A^j) (E^w + U_w V_w): from the right, E acts as its conjugate
            turned = times_modes(e_re[..., width, None], -e_im[..., width, None], rows.transpose(1, 2))
            more = turned.transpose(1, 2) + (rows @ U_HNX[..., -width * R :]) @ rows
            rows, width = torch.cat((rows, more), dim=1), 2 * width
        eye = torch.eye(N, dtype=dtype, device=U.device)
        dense = (
            times_modes(e_re[..., inner, None], e_im[..., inner, None], eye.expand(H, N, N)) + U_HNX @ rows
        )
        return cls(inner, outer, e_re, e_im, U_HNX, rows, dense, system.c.to(dtype).transpose(0, 1))

    def columns(self, x_HNK: torch.Tensor) -> torch.Tensor:
        """A^j x for j < S: (H, N, K S), K slowest."""
        K, R = x_HNK.shape[-1], self.V.shape[1] // self.inner
        x, width = x_HNK[..., None], 1  # (H, N, K, w)
        while width < self.inner:
            flat = x.flatten(2)
            turned = times_modes(self.e_re[..., width, None], self.e_im[..., width, None], flat)
            more = turned + self.U[..., -width * R :] @ (self.V[:, : width * R] @ flat)
            x, width = torch.cat((x, more.unflatten(-1, (K, width))), dim=-1), 2 * width
        return x.flatten(2)

    def outputs(self, x_HNK: torch.Tensor) -> torch.Tensor:
        """c A^l x for l < S I: (K, C, H, S I)."""
        (H, _, K), num_outputs = x_HNK.shape, self.c.shape[1]
        rows, dense, num = self.c[:, None], self.dense, 1  # (H, i, C, N)
        while num < self.outer:
            more = (rows.flatten(1, 2) @ dense).unflatten(1, (num, num_outputs))
            rows, num = torch.cat((rows, more), dim=1), 2 * num
            if num < self.outer:
                dense = dense @ dense
        rows = rows[:, : self.outer].transpose(1, 2).flatten(1, 2)  # (H, C I, N)
        y = (rows @ self.columns(x_HNK)).view(H, num_outputs, self.outer, K, self.inner)
        return y.permute(3, 1, 0, 2, 4).flatten(3)
