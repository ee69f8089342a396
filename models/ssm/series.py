"""k[l] = Re sum_m c_m exp(z_m l), by a two-level Vandermonde product with its own adjoint.

Materialising H x M x L exponentials is what makes the direct way slow. With l = i S + j and S near sqrt(L),
H x M x (S + L/S) exponentials and one real batched product give the same numbers. The adjoint needs no
derivative of an exponential: with W_i = sum_j g[i S + j] exp(z j) and V_i the same with a factor j,

    d/dc = sum_i exp(z S i) W_i,    d/dz = c sum_i exp(z S i) (i S W_i + V_i)

up to conjugation. Nothing but the parameters is kept; a few channels at a time are worked on, in the cache.

Letters: K series, H channels, M modes, L length, S inner and I outer steps.
"""

from typing import Any

import torch

from models import cache_blocks
from models.ssm.system import tables, two_levels

_BLOCK_NUMBERS = 1 << 17  # of each table: some four of them fit a core's second-level cache


def series(
    z_re: torch.Tensor,
    z_im: torch.Tensor,
    c_re: torch.Tensor,
    c_im: torch.Tensor,
    length: int,
    dtype: torch.dtype,
) -> torch.Tensor:
    """z (H, M) and c (K, H, M), float64 -> (K, H, L) in `dtype`."""
    if torch.compiler.is_compiling() or z_re.device.type == "meta":
        return _evaluate(z_re, z_im, c_re, c_im, length, dtype)
    k_KHL: torch.Tensor = _Series.apply(z_re, z_im, c_re, c_im, length, dtype)
    return k_KHL


def totals(z_re: torch.Tensor, z_im: torch.Tensor, v_KHL: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """sum_l exp(z (L - 1 - l)) v[l], as real and imaginary parts (K, H, M): states after a sequence."""
    parts = [_totals(z_re[part], z_im[part], v_KHL[:, part]) for part in _blocks(z_re, *v_KHL.shape[::2])]
    if len(parts) == 1:
        return parts[0]
    t_re, t_im = zip(*parts, strict=True)
    return torch.cat(t_re, dim=1), torch.cat(t_im, dim=1)


def _totals(z_re: torch.Tensor, z_im: torch.Tensor, v_KHL: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    (K, _, L), dtype = v_KHL.shape, v_KHL.dtype
    inner, outer = two_levels(L)
    # The power L - 1 - l counts down, hence the flips; zeros in front, where powers are largest, add nothing.
    # K=2, H=4, M=3, L=10: S=4, I=3; v (4, 6, 4) times tables (4, 4, 6) is w (4, 2, 3, 6), summed over I.
    e_re, e_im, p_re, p_im = (table.flip(-1) for table in tables(z_re, z_im, inner, outer, dtype))
    padded = torch.nn.functional.pad(v_KHL, (inner * outer - L, 0))
    v = padded.unflatten(-1, (outer, inner)).transpose(0, 1).flatten(1, 2)  # (H, K I, S)
    w = torch.bmm(v, torch.cat((e_re, e_im), dim=1).transpose(1, 2)).unflatten(1, (K, outer))
    w_re, w_im = w.chunk(2, dim=-1)  # (H, K, I, M)
    p_re, p_im = p_re.transpose(1, 2)[:, None], p_im.transpose(1, 2)[:, None]
    t_re, t_im = (w_re * p_re - w_im * p_im).sum(2), (w_re * p_im + w_im * p_re).sum(2)
    return t_re.transpose(0, 1), t_im.transpose(0, 1)


def _evaluate(
    z_re: torch.Tensor,
    z_im: torch.Tensor,
    c_re: torch.Tensor,
    c_im: torch.Tensor,
    length: int,
    dtype: torch.dtype,
) -> torch.Tensor:
    """The plain form: left (H, K I, 2M) times right (H, 2M, S)."""
    # Re(q p e) = Re(q p) Re(e) - Im(q p) Im(e): one real product does it, with the minus sign in `left`.
    # K=1, H=2, M=3, L=10: S=4, I=3; left (2, 3, 6) times right (2, 6, 4) is (2, 3, 4), whose entry (i, j) is
    # k[4 i + j]; the last two of the twelve are cut off.
    inner, outer = two_levels(length)
    e_re, e_im, p_re, p_im = tables(z_re, z_im, inner, outer, dtype)
    q_re, q_im = c_re.to(dtype)[..., None], c_im.to(dtype)[..., None]
    left = torch.cat((q_re * p_re - q_im * p_im, -(q_re * p_im + q_im * p_re)), dim=2)  # (K, H, 2M, I)
    left = left.permute(1, 0, 3, 2).flatten(1, 2)
    k = torch.bmm(left, torch.cat((e_re, e_im), dim=1)).unflatten(1, (c_re.shape[0], outer))
    return k.flatten(2)[..., :length].transpose(0, 1)


class _Series(torch.autograd.Function):
    """Differentiable again, and by torch.func."""

    @staticmethod
    def forward(
        z_re: torch.Tensor,
        z_im: torch.Tensor,
        c_re: torch.Tensor,
        c_im: torch.Tensor,
        length: int,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        # Nothing is recorded in here: the tables of a block are gone when the next one is made.
        k_KHL = torch.empty(*c_re.shape[:2], length, dtype=dtype, device=z_re.device)
        for part in _blocks(z_re, c_re.shape[0], length):
            inputs = z_re[part], z_im[part], c_re[:, part], c_im[:, part]
            k_KHL[:, part] = _evaluate(*inputs, length, dtype)
        return k_KHL

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        ctx.save_for_backward(*inputs[:4])

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (z_re, z_im, c_re, c_im), (grad_KHL,) = ctx.saved_tensors, grads
        parts = [
            _adjoint(z_re[part], z_im[part], c_re[:, part], c_im[:, part], grad_KHL[:, part])
            for part in _blocks(z_re, *grad_KHL.shape[::2])
        ]
        dz_re, dz_im, dc_re, dc_im = zip(*parts, strict=True)
        return torch.cat(dz_re), torch.cat(dz_im), torch.cat(dc_re, 1), torch.cat(dc_im, 1), None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[torch.Tensor, int]:
        batched = (
            x.movedim(dim, 0) if dim is not None else x.expand(info.batch_size, *x.shape)
            for x, dim in zip(inputs[:4], in_dims[:4], strict=True)
        )
        return torch.stack([series(*one, *inputs[4:]) for one in zip(*batched, strict=True)]), 0


def _adjoint(
    z_re: torch.Tensor, z_im: torch.Tensor, c_re: torch.Tensor, c_im: torch.Tensor, grad_KHL: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """Gradients by z and c, by the formulas above; plain operations, which can be differentiated again."""
    # K=1, H=2, M=3, L=10: S=4, I=3; g (2, 3, 4) times right (2, 4, 12) is W and V, re and im (2, 1, 3, 3)
    # each. Zeros at the end: the two positions that were cut off had no gradient.
    (K, _, L), dtype = grad_KHL.shape, grad_KHL.dtype
    inner, outer = two_levels(L)
    e_re, e_im, p_re, p_im = tables(z_re, z_im, inner, outer, dtype)
    padded = torch.nn.functional.pad(grad_KHL, (0, inner * outer - L))
    g = padded.unflatten(-1, (outer, inner)).transpose(0, 1).flatten(1, 2)  # (H, K I, S)
    j = torch.arange(inner, dtype=dtype, device=g.device)
    # four tables side by side: g is read once, and one product is faster than four
    right = torch.cat((e_re, e_im, e_re * j, e_im * j), dim=1).transpose(1, 2)  # (H, S, 4M)
    w_re, w_im, v_re, v_im = torch.bmm(g, right).unflatten(1, (K, outer)).chunk(4, dim=-1)  # (H, K, I, M)
    p_re, p_im = p_re.transpose(1, 2)[:, None], p_im.transpose(1, 2)[:, None]
    start = inner * torch.arange(outer, dtype=dtype, device=g.device)[:, None]  # i S
    v_re, v_im = v_re + start * w_re, v_im + start * w_im
    # k is the real part, so what belongs to an imaginary part has the other sign: the conjugation of above
    dc_re, dc_im = (p_re * w_re - p_im * w_im).sum(2), -(p_re * w_im + p_im * w_re).sum(2)  # (H, K, M)
    f_re, f_im = (p_re * v_re - p_im * v_im).sum(2), (p_re * v_im + p_im * v_re).sum(2)
    q_re, q_im = c_re.transpose(0, 1), c_im.transpose(0, 1)
    dz_re, dz_im = (q_re * f_re - q_im * f_im).sum(1), -(q_re * f_im + q_im * f_re).sum(1)
    return dz_re, dz_im, dc_re.transpose(0, 1).to(c_re.dtype), dc_im.transpose(0, 1).to(c_re.dtype)


def _blocks(z_re: torch.Tensor, num_series: int, length: int) -> list[slice]:
    """Cut the channels so that a block's tables fit the cache; one block on an accelerator."""
    (H, M), (inner, outer) = z_re.shape, two_levels(length)
    step = H
    if cache_blocks.takes_blocks(z_re.device):
        step = max(1, _BLOCK_NUMBERS // (M * max(inner, num_series * outer)))
    return [slice(start, start + step) for start in range(0, H, step)]
