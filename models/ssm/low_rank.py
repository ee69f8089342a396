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

from models import cache_blocks
from models.ssm.diagonal import diagonal_carry_flops
from models.ssm.system import (
    Recurrence,
    System,
    add_skip,
    mode_blocks,
    one_step,
    powers,
    times_modes,
    two_levels,
)

# at N = 64 and S = 64 each float32 matrix of so many channels is 1 MiB: it stays in a second-level cache
_BLOCK_CHANNELS = 64


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
        return add_skip(torch.cat([part._kernel(length) for part in self._parts()], dim=1), self.D)

    def _kernel(self, length: int) -> torch.Tensor:
        blocks = Blocks.of(self, length)
        return blocks.outputs(blocks.columns(self.b.to(self.D.dtype)[..., None]))[0, ..., :length]

    def carry(
        self, u_BHL: torch.Tensor, x_BHN: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        parts = self._parts()
        sizes = [len(part.b) for part in parts]
        inputs = zip(parts, u_BHL.split(sizes, dim=1), x_BHN.split(sizes, dim=1), strict=True)
        k_CHL, added_BCHL, after_BHN = zip(
            *(part._recurrent_state(u, x) for part, u, x in inputs), strict=True
        )
        return add_skip(torch.cat(k_CHL, 1), self.D), torch.cat(added_BCHL, 2), torch.cat(after_BHN, 1)

    def _recurrent_state(self, u_BHL: torch.Tensor, x_BHN: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Without D. One set of columns A^j b and A^j (A x), j < S, serves all three."""
        (B, _, L), dtype = u_BHL.shape, self.D.dtype
        blocks = Blocks.of(self, L)
        # The state comes one step before the first input, so that its columns start from A x.
        e_re, e_im = one_step(self.z_re, self.z_im)
        x_HNB = x_BHN.permute(1, 2, 0).double()
        x_HNB = times_modes(e_re[..., None], e_im[..., None], x_HNB) + self.U @ (self.V @ x_HNB)
        starts_HNK = torch.cat((self.b[..., None], x_HNB), dim=-1).to(dtype)
        columns = blocks.columns(starts_HNK)
        y_KCHL = blocks.outputs(columns)[..., :L]
        S, outer = blocks.inner, blocks.outer
        # Input l is multiplied by A^(L-1-l) b = A^(S i) A^j b, the state by A^L: with the oldest inputs.
        # B=2, H=8, N=4, L=10: S=4, I=3. Zeros in front make the oldest block [0 0 u0 u1]; v_HSX is (8, 4, 6),
        # w_HNBI (8, 4, 2, 3). Within its block the state has two steps to go, A (A x) or old column j=1;
        # total() then takes the whole block A^8 further, so that the state has had its A^10.
        padded = torch.nn.functional.pad(u_BHL, (S * outer - L, 0))
        v_HSX = padded.unflatten(-1, (outer, S)).permute(1, 3, 0, 2).flatten(2)  # (H, S, B I), oldest first
        w_HNBI = (columns[..., :S].flip(-1) @ v_HSX).unflatten(-1, (B, outer))
        old_HNB = columns[..., S:].unflatten(-1, (B, S))[..., L - S * (outer - 1) - 1]
        w_HNIB = torch.cat(((w_HNBI[..., 0] + old_HNB)[..., None], w_HNBI[..., 1:]), -1).transpose(2, 3)
        return y_KCHL[0], y_KCHL[1:], blocks.total(w_HNIB).permute(2, 0, 1)

    def _parts(self) -> list["LowRankSystem"]:
        """A few channels at a time on a CPU, for its cache's sake."""
        if not cache_blocks.takes_blocks(self.D.device):
            return [self]
        first = (t.split(_BLOCK_CHANNELS) for t in (self.z_re, self.z_im, self.U, self.V, self.b))
        second = (t.split(_BLOCK_CHANNELS, dim=1) for t in (self.c, self.D))
        return [LowRankSystem(*part) for part in zip(*first, *second, strict=True)]

    def recurrence(self) -> Recurrence:
        dtype = self.D.dtype
        decay, turn = mode_blocks(self.z_re, self.z_im, dtype)
        U, V, b, c = (t.to(dtype) for t in (self.U, self.V, self.b, self.c))
        return Recurrence(decay, turn, U, V, b, c, self.D)


def block_sizes(num_states: int, length: int) -> tuple[int, int]:
    """(S, I). At least N inner steps: below that, columns are cheaper than squared matrices."""
    least = min(1 << (num_states - 1).bit_length(), 1 << (length - 1).bit_length())
    return two_levels(length, least)


@final
@dataclass(frozen=True, slots=True)
class Level:
    """What doubles w columns A^j x, j < w: A^w = E^w + U V."""

    e_re: torch.Tensor  # (H, M, 1): E^w
    e_im: torch.Tensor
    U: torch.Tensor  # (H, N, w R): E^(w-1) U ... U
    V: torch.Tensor  # (H, w R, N): V^T; ...; V^T A^(w-1)


@final
@dataclass(frozen=True, slots=True)
class Blocks:
    """A system's state matrix prepared for sequences of S I steps."""

    # H=8, N=4, R=1, C=2, L=10: S=4 and I=3 blocks cover 12 steps. The levels w = 1 and 2 have U (8, 4, 1) and
    # (8, 4, 2); dense are A^4 and A^8. columns(b) is (8, 4, 4): b, A b, A^2 b, A^3 b. outputs() multiplies
    # the rows c, c A^4, c A^8 (8, 3 x 2, 4) by these columns, which is c A^(4 i + j) b: (1, 2, 8, 12).
    outer: int  # I, blocks of S that cover the length
    levels: tuple[Level, ...]  # w = 1, 2, ... S / 2
    dense: tuple[torch.Tensor, ...]  # (H, N, N): A^S, A^(2S), ... as many as I - 1 has bits, at least one
    c: torch.Tensor  # (H, C, N)

    @classmethod
    def of(cls, system: LowRankSystem, length: int) -> "Blocks":
        """Prepare for sequences of this length."""
        dtype, (H, _, N) = system.D.dtype, system.V.shape
        inner, outer = block_sizes(N, length)
        # All powers of E at once, from exact angles: squaring E^w would square its rounding errors too.
        widths = [1 << level for level in range(inner.bit_length())]
        steps = torch.tensor(widths, dtype=torch.float64, device=system.z_re.device)
        e_re, e_im = (e.unbind(-1) for e in powers(system.z_re, system.z_im, steps, dtype))
        U, V, levels = system.U.to(dtype), system.V.to(dtype), []
        for re, im in zip(e_re[:-1], e_im[:-1], strict=True):
            level = Level(re[..., None], im[..., None], U, V)
            levels.append(level)
            # V^T A^(w+j) = (V^T A^j) (E^w + U V): from the right, E acts as its conjugate
            turned = times_modes(level.e_re, -level.e_im, V.transpose(1, 2)).transpose(1, 2)
            U, V = (
                torch.cat((times_modes(level.e_re, level.e_im, U), U), dim=2),
                torch.cat((V, turned + (V @ U) @ V), dim=1),
            )
        # Where a second block follows, S >= N: U has at least N columns, and a low rank would save nothing.
        eye = torch.eye(N, dtype=dtype, device=U.device).expand(H, N, N)
        dense = [torch.baddbmm(times_modes(e_re[-1][..., None], e_im[-1][..., None], eye), U, V)]
        while 1 << len(dense) < outer:
            dense.append(dense[-1] @ dense[-1])
        return cls(outer, tuple(levels), tuple(dense), system.c.to(dtype).transpose(0, 1))

    @property
    def inner(self) -> int:
        """S."""
        return 1 << len(self.levels)

    def columns(self, x_HNK: torch.Tensor) -> torch.Tensor:
        """A^j x for j < S: (H, N, K S), K slowest."""
        x_HNKw = x_HNK[..., None]
        # w = 1: [x] becomes [x, A x]; w = 2: [x, A x, A^2 x, A^3 x]; K starts are columns side by side
        for level in self.levels:
            flat = x_HNKw.flatten(2)
            more = torch.baddbmm(times_modes(level.e_re, level.e_im, flat), level.U, level.V @ flat)
            x_HNKw = torch.cat((x_HNKw, more.view_as(x_HNKw)), dim=-1)
        return x_HNKw.flatten(2)

    def outputs(self, columns_HNX: torch.Tensor) -> torch.Tensor:
        """c A^l x for l < S I, of `columns(x)`: (K, C, H, S I)."""
        H, num_outputs = columns_HNX.shape[0], self.c.shape[1]
        rows = self.c  # (H, i C, N), i slowest
        if self.outer > 1:
            # [c] becomes [c, c A^S], then [c, c A^S, c A^2S, c A^3S]: a few rows too many where I is not 2^n
            for dense in self.dense:
                rows = torch.cat((rows, rows @ dense), dim=1)
        y = rows[:, : self.outer * num_outputs] @ columns_HNX
        return y.view(H, self.outer, num_outputs, -1, self.inner).permute(3, 2, 0, 1, 4).flatten(3)

    def total(self, w_HNIB: torch.Tensor) -> torch.Tensor:
        """sum_i A^(S (I - 1 - i)) w_i: (H, N, B). Neighbours first, the last with the one before it."""
        # I=3, oldest first: [w0, w1, w2] becomes [w0, w2 + A^S w1], then w2 + A^S w1 + A^2S w0. The one left
        # over is the oldest, so that all pairs are the same number of steps apart.
        for dense in self.dense:
            if w_HNIB.shape[2] == 1:
                break
            odd = w_HNIB[:, :, :1] if w_HNIB.shape[2] % 2 else w_HNIB[:, :, :0]
            older, newer = (w_HNIB[:, :, odd.shape[2] + start :: 2] for start in (0, 1))
            stepped = (dense @ older.flatten(2)).view_as(newer)
            w_HNIB = torch.cat((odd, newer + stepped), dim=2)
        return w_HNIB[:, :, 0]


def low_rank_carry_flops(num_states: int, rank: int, channels: int, length: int) -> float:
    """Training FLOPs per token and channel of a carried state of N real numbers.

    As for a diagonal system, and the columns A^j x, j < S, forward and backward: doubling from w to 2w takes
    4 R N w^2, so that all take 4/3 R N S^2 a window. The last state also takes a dense product, 2 N^2, for
    each block of S but the first.
    """
    inner, outer = block_sizes(num_states, length)
    columns = 4 / 3 * rank * num_states * inner**2
    dense = 2.0 * num_states**2 * (outer - 1)
    return diagonal_carry_flops(num_states, channels) + (3 * columns + dense) / length


def low_rank_footprint(num_states: int, rank: int, d_model: int, kernels: int, length: int) -> float:
    """Bytes that a kernel keeps, by the letters of this module; the last of doubling is the largest."""
    inner, outer = block_sizes(num_states, length)
    num_levels, num_dense = inner.bit_length() - 1, max(1, (outer - 1).bit_length())
    factors = 2.0 * num_states * rank * (2 * inner - 1)  # U and V of every width
    between = (rank**2 + rank) * (inner**2 - 1) / 3  # V U, and V times columns
    columns = num_states * (2.0 * inner - 1)
    turns = num_states / 2 * (6 * (num_levels + 1) + num_levels)
    dense = num_dense * float(num_states**2)
    rows = kernels * num_states * (2.0 ** (num_dense + 1) - 1) if outer > 1 else kernels * num_states
    return 4.0 * d_model * (factors + between + columns + turns + dense + rows)


def low_rank_kernel_flops(num_states: int, rank: int, kernels: int, length: int) -> float:
    """Forward FLOPs of a channel's kernels: doubling from 1 to S, dense powers, and rows times columns."""
    (inner, outer), N = block_sizes(num_states, length), float(num_states)
    num_dense = max(1, (outer - 1).bit_length())
    doubling = (inner**2 - 1) / 3 * 4 * rank * (rank + 1) * N
    dense = 2 * N**2 * inner * rank + 2 * N**3 * (num_dense - 1)
    rows = (2**num_dense - 1) * 2 * kernels * N**2 if outer > 1 else 0.0
    return doubling + dense + rows + 2 * outer * kernels * N * inner
