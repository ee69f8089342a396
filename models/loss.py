"""Cross-entropy of a readout that never holds all logits: product and loss of a few positions at a time.

Letters: N positions, H channels, V symbols, T positions of a chunk.
"""

from typing import Any

import torch
from torch import nn

from models.precision import autocast_dtype, no_autocast

IGNORED = -100
"""Target that the loss skips: cross_entropy's default ignore_index."""
_CHUNK_BYTES = 1 << 29
"""Of float32 logits: on a GPU each chunk costs a pass over the readout's gradient, on a CPU nothing."""
_ALIGNED = 64
"""Kernels of products in bfloat16 are several times as fast where all sizes are multiples of this."""


def scores(logits_NV: torch.Tensor, y_N: torch.Tensor) -> torch.Tensor:
    """(2): the loss summed over the targets that count, and how many of them the largest logit hits.

    Hits are counted where no gradient is wanted; else they are 0.
    """
    loss = nn.functional.cross_entropy(logits_NV, y_N, ignore_index=IGNORED, reduction="sum")
    return torch.stack((loss, _hits(logits_NV, y_N).to(loss.dtype)))


def readout_scores(x_NH: torch.Tensor, weight_VH: torch.Tensor, y_N: torch.Tensor) -> torch.Tensor:
    """`scores` of the logits x W^T, in float32; in autocast, products are taken in its dtype.

    Gradients are made with the loss, of one chunk after the other: logits are needed once, and never again.
    """
    dtype = autocast_dtype(x_NH) or x_NH.dtype
    learns = torch.is_grad_enabled() and (x_NH.requires_grad or weight_VH.requires_grad)
    with no_autocast(x_NH):
        result: torch.Tensor = _ReadoutScores.apply(x_NH, weight_VH, y_N, dtype, learns)
        return result


def chunk_length(num_symbols: int) -> int:
    """Positions of a chunk: as many as have float32 logits of a bounded size."""
    return max(128, _CHUNK_BYTES // (4 * num_symbols) // 128 * 128)


class _ReadoutScores(torch.autograd.Function):
    """Differentiable again, by its plain form."""

    @staticmethod
    def forward(
        ctx: Any,
        x_NH: torch.Tensor,
        weight_VH: torch.Tensor,
        y_N: torch.Tensor,
        dtype: torch.dtype,
        learns: bool,
    ) -> torch.Tensor:
        # V=50 257, bfloat16: products with a (50 304, H) copy, whose last rows are zero. The loss sees the
        # first V columns, and the gradient of the others is zero.
        (N, H), V = x_NH.shape, weight_VH.shape[0]
        padded_WH = _rounded(weight_VH, dtype)
        total = x_NH.new_zeros(2, dtype=torch.promote_types(dtype, torch.float32))
        if learns:
            dx_NH = x_NH.new_empty(N, H, dtype=dtype)
            dweight_VH = weight_VH.new_zeros(V, H, dtype=total.dtype)
        step = chunk_length(V)
        for start in range(0, N, step):
            x_TH, y_T = x_NH[start : start + step].to(dtype), y_N[start : start + step]
            logits_TV = (x_TH @ padded_WH.t())[:, :V].to(total.dtype)
            if not learns:
                total += scores(logits_TV, y_T)
                continue
            loss, g_TW = _loss_and_slope(logits_TV, y_T, padded_WH)
            total[0] += loss
            torch.mm(g_TW, padded_WH, out=dx_NH[start : start + step])
            if dtype == total.dtype:
                dweight_VH.addmm_(g_TW.t(), x_TH)
            else:  # sums over chunks stay float32
                dweight_VH += (g_TW.t() @ x_TH)[:V]
        if learns:
            ctx.save_for_backward(x_NH, weight_VH, y_N)
            ctx.dtype, ctx.made = dtype, (dx_NH, dweight_VH)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x_NH, weight_VH, y_N = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative is wanted: let autograd see the operations
            logits_NV = x_NH.to(ctx.dtype) @ weight_VH.to(ctx.dtype).t()
            loss = scores(logits_NV.to(grads[0].dtype), y_N)[0] * grads[0][0]
            return *torch.autograd.grad(loss, (x_NH, weight_VH), create_graph=True), None, None, None
        if ctx.made is None:
            raise RuntimeError("the gradient of this loss has been taken already")
        (dx_NH, dweight_VH), ctx.made = ctx.made, None
        factor = grads[0][0]
        return (
            dx_NH.mul_(factor).to(x_NH.dtype),
            dweight_VH.mul_(factor).to(weight_VH.dtype),
            None,
            None,
            None,
        )


def _loss_and_slope(
    logits_TV: torch.Tensor, y_T: torch.Tensor, padded_WH: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss, and its gradient by the logits: probabilities, less one at the target. Columns as padded."""
    counts_T = y_T != IGNORED
    y_T1 = torch.where(counts_T, y_T, 0)[:, None]
    logs_TV = torch.log_softmax(logits_TV, dim=-1)
    loss = -torch.where(counts_T, logs_TV.gather(1, y_T1)[:, 0], 0).sum()
    slope_TV = logs_TV.exp_().scatter_add_(1, y_T1, logs_TV.new_full(y_T1.shape, -1.0))
    counts_T1 = counts_T[:, None].to(slope_TV.dtype)
    if padded_WH.dtype == slope_TV.dtype:
        return loss, slope_TV.mul_(counts_T1)
    g_TW = padded_WH.new_zeros(len(y_T), len(padded_WH))
    torch.mul(slope_TV, counts_T1, out=g_TW[:, : slope_TV.shape[1]])
    return loss, g_TW


def _rounded(weight_VH: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The weight as products take it. In two bytes a number with rows of zeros, to a multiple of 64."""
    V, H = weight_VH.shape
    if dtype.itemsize > 2 or V % _ALIGNED == 0:
        return weight_VH.to(dtype)
    padded_WH = weight_VH.new_zeros(-(-V // _ALIGNED) * _ALIGNED, H, dtype=dtype)
    padded_WH[:V] = weight_VH
    return padded_WH


def _hits(logits_NV: torch.Tensor, y_N: torch.Tensor) -> torch.Tensor:
    if torch.is_grad_enabled():
        return y_N.new_zeros(())
    return (logits_NV.argmax(-1) == y_N).sum()
