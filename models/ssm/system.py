"""Discrete linear systems: what every state-space parametrisation comes down to, and what is done with it.

Letters: B batch, L length, H channels, C outputs per channel, M modes, N = 2M real coordinates [Re x; Im x],
R rank. A system is a pure value made of differentiable tensors; small ones are float64 (see `powers`).
"""

import abc
import math
from dataclasses import dataclass
from typing import final

import torch


@final
@dataclass(frozen=True, slots=True)
class Recurrence:
    """x' = A x + b u, y = c x' + D u, with A block-diagonal in the modes plus U V^T: one token at a time.

    A mode's block [[r, -i], [i, r]] is `decay` times x plus `turn` times x with its halves swapped.
    """

    decay: torch.Tensor  # (H, N): [r, r]
    turn: torch.Tensor  # (H, N): [-i, i]
    U: torch.Tensor  # (H, N, R); R = 0 for a diagonal system
    V: torch.Tensor  # (H, R, N)
    b: torch.Tensor  # (H, N)
    c: torch.Tensor  # (C, H, N)
    D: torch.Tensor  # (C, H)

    def step(self, u_BH: torch.Tensor, x_BHN: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """One token: (outputs (B, C, H), next state (B, H, N))."""
        u_BH = u_BH.to(self.b.dtype)
        # [Re x; Im x] -> [Im x; Re x], to be multiplied by [-i; i]: a complex product in real numbers
        swapped = x_BHN.roll(x_BHN.shape[-1] // 2, dims=-1)
        next_BHN = torch.addcmul(
            torch.addcmul(self.b * u_BH[..., None], self.decay, x_BHN), self.turn, swapped
        )
        if self.V.shape[1]:
            seen_BHR = (self.V * x_BHN[:, :, None]).sum(-1)
            next_BHN = next_BHN + (self.U * seen_BHR[:, :, None]).sum(-1)
        y_BCH = (self.c * next_BHN[:, None]).sum(-1)
        return torch.addcmul(y_BCH, self.D, u_BH[:, None]), next_BHN


class System(abc.ABC):
    """A discretised time-invariant system of H channels, each one input, C outputs and N real states."""

    @abc.abstractmethod
    def kernel(self, length: int) -> torch.Tensor:
        """The first `length` values of the impulse response, D included: (C, H, L)."""

    @abc.abstractmethod
    def carry(
        self, u_BHL: torch.Tensor, x_BHN: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """For inputs that follow a state: the kernel (C, H, L), what the state adds to the outputs
        (B, C, H, L), and the state after the inputs (B, H, N)."""

    @abc.abstractmethod
    def recurrence(self) -> Recurrence:
        """The same system for one token at a time."""


def two_levels(length: int, least_inner: int = 1) -> tuple[int, int]:
    """Cut l = i S + j: (S, number of i), S a power of two near sqrt(length), at least `least_inner`."""
    # 10 -> (4, 3), 1000 -> (32, 32), 16 384 -> (128, 128): tables of S and of I columns, fewest near the root
    inner = max(1 << ((length - 1).bit_length() + 1) // 2, least_inner)
    return inner, -(-length // inner)


def powers(
    z_re: torch.Tensor, z_im: torch.Tensor, steps: torch.Tensor, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Real and imaginary parts of exp(z l) for each l in `steps`: z (H, M) float64 -> (H, M, len(steps)).

    Angles are reduced to one turn in float64: a float32 product would be off by 6e-8 * angle.
    """
    # z_im = 3 at step 16 384 is 49 152 rad, where float32 numbers are 0.004 apart. Whole turns are a constant
    # to the derivative, hence the detach.
    angle = z_im[..., None] * steps
    angle = (angle - 2 * math.pi * torch.round(angle.detach() / (2 * math.pi))).to(dtype)
    size = (z_re[..., None] * steps).to(dtype).exp()
    return size * angle.cos(), size * angle.sin()


def tables(
    z_re: torch.Tensor, z_im: torch.Tensor, inner: int, outer: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """exp(z j) for j < S and exp(z S i) for i < I, each as real and imaginary parts (H, M, S or I)."""
    steps = torch.arange(max(inner, outer), dtype=torch.float64, device=z_re.device)
    e_re, e_im = powers(z_re, z_im, steps[:inner], dtype)
    return e_re, e_im, *powers(z_re, z_im, steps[:outer] * inner, dtype)


def one_step(z_re: torch.Tensor, z_im: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Real and imaginary parts (H, M) of exp(z), in the dtype of z."""
    return z_re.exp() * z_im.cos(), z_re.exp() * z_im.sin()


def add_skip(k_CHL: torch.Tensor, D_CH: torch.Tensor) -> torch.Tensor:
    """The impulse response with D u in it: its first value."""
    return torch.cat((k_CHL[..., :1] + D_CH[..., None], k_CHL[..., 1:]), dim=-1)


def mode_blocks(
    z_re: torch.Tensor, z_im: torch.Tensor, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """exp(z) as a recurrence's `decay` and `turn`, each (H, 2M)."""
    re, im = (part.to(dtype) for part in one_step(z_re, z_im))
    return torch.cat((re, re), dim=-1), torch.cat((-im, im), dim=-1)


def times_modes(re: torch.Tensor, im: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Multiply coordinates [Re x; Im x], halves along dimension -2, by complex factors (..., M, columns)."""
    # M=2, N=4: factors (H, 2, 1) and x (H, 4, K); `a` and `b` are (H, 2, K). With -im it is the transpose.
    a, b = x.chunk(2, dim=-2)
    return torch.cat((re * a - im * b, im * a + re * b), dim=-2)
