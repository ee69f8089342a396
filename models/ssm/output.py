"""glu(W gelu(y) + b) of channels-first y, a few hundred positions at a time.

Done with whole tensors, products share the time with page faults and cache misses of what lies between them.
Here all of that lives in the cache, and only the product is kept for the backward pass.

Letters: B batch, X inputs, L length, Z = 2H products, T positions of a block.
"""

from typing import Any

import torch
from torch import nn

from models import cache_blocks
from models.precision import autocast_dtype

_BLOCK = 256  # positions: products of this size run at full speed, and their results fit a core's cache


def gelu_linear_glu(
    y_BXL: torch.Tensor, weight_ZX: torch.Tensor, bias_Z: torch.Tensor | None
) -> torch.Tensor:
    """Outputs (B, L, H). In float32 on a CPU by blocks, else by whole tensors."""
    assert bias_Z is not None, "the output map has a bias"
    alike = y_BXL.dtype == weight_ZX.dtype and autocast_dtype(y_BXL) is None
    if cache_blocks.takes_blocks(y_BXL.device) and alike and y_BXL.dtype.itemsize >= 4:
        out_BLH, _ = _GeluLinearGlu.apply(y_BXL, weight_ZX, bias_Z)
        return out_BLH
    return nn.functional.glu(linear_channels_first(nn.functional.gelu(y_BXL), weight_ZX, bias_Z), dim=-1)


def linear_channels_first(
    x_BXL: torch.Tensor, weight_ZX: torch.Tensor, bias_Z: torch.Tensor | None
) -> torch.Tensor:
    """W x + b: (B, X, L) -> (B, L, Z), by products that read x transposed; a linear would copy."""
    if (dtype := autocast_dtype(x_BXL)) is not None:
        # rounded here: autocast would round, and keep, the copies of all sequences
        weight_ZX = weight_ZX.to(dtype)
    weight_BXZ = weight_ZX.t().expand(x_BXL.shape[0], -1, -1)
    if bias_Z is None:
        return torch.bmm(x_BXL.transpose(1, 2), weight_BXZ)
    return torch.baddbmm(bias_Z, x_BXL.transpose(1, 2), weight_BXZ)


class _GeluLinearGlu(torch.autograd.Function):
    """Outputs and, for the backward pass only, the product. Differentiable again, and by torch.func."""

    @staticmethod
    def forward(
        y_BXL: torch.Tensor, weight_ZX: torch.Tensor, bias_Z: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        # B=2, X=8, L=300, Z=16, one thread: blocks of 256 and 44 positions of a row. gelu (8, 256), turned,
        # times (8, 16) goes straight into (256, 16) of wide, and glu of that into (256, 8) of out.
        (B, _, L), Z = y_BXL.shape, weight_ZX.shape[0]
        wide_BLZ, out_BLH = y_BXL.new_empty(B, L, Z), y_BXL.new_empty(B, L, Z // 2)
        for row, part in _blocks(B, L):
            gelu_XT = nn.functional.gelu(y_BXL[row, :, part])
            torch.addmm(bias_Z, gelu_XT.t(), weight_ZX.t(), out=wide_BLZ[row, part])
            out_BLH[row, part] = nn.functional.glu(wide_BLZ[row, part], dim=-1)
        return out_BLH, wide_BLZ

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[torch.Tensor, ...], output: tuple[torch.Tensor, ...]) -> None:
        y_BXL, weight_ZX, bias_Z = inputs
        # `wide` is an output only so that it can be saved here and torch.func still works; without
        # materialising its gradient, which nobody asks for, no zeros of its size are made.
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(y_BXL, weight_ZX, bias_Z, output[1])

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        y_BXL, weight_ZX, bias_Z, wide_BLZ = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative is wanted: let autograd see the operations
            return _plain_adjoint(y_BXL, weight_ZX, bias_Z, grads[0])
        dy_BXL, dweight_ZX, dbias_Z = (
            torch.empty_like(y_BXL), torch.zeros_like(weight_ZX), torch.zeros_like(bias_Z)
        )  # fmt: skip
        for row, part in _blocks(y_BXL.shape[0], y_BXL.shape[2]):
            y_XT = y_BXL[row, :, part]
            # gelu(y) is computed again: cheaper than to keep it, and the row is in the cache anyway
            dwide_TZ = torch.ops.aten.glu_backward(grads[0][row, part], wide_BLZ[row, part], -1)
            dbias_Z += dwide_TZ.sum(0)
            dweight_ZX.addmm_(dwide_TZ.t(), nn.functional.gelu(y_XT).t())
            dgelu_XT = weight_ZX.t() @ dwide_TZ.t()
            dy_BXL[row, :, part] = torch.ops.aten.gelu_backward(dgelu_XT, y_XT)
        return dy_BXL, dweight_ZX, dbias_Z

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: torch.Tensor) -> Any:
        batched = (
            x.movedim(dim, 0) if dim is not None else x.expand(info.batch_size, *x.shape)
            for x, dim in zip(inputs, in_dims, strict=True)
        )
        outputs = [_GeluLinearGlu.apply(*one) for one in zip(*batched, strict=True)]
        return tuple(torch.stack(parts) for parts in zip(*outputs, strict=True)), (0, 0)


def _plain_adjoint(
    y_BXL: torch.Tensor, weight_ZX: torch.Tensor, bias_Z: torch.Tensor, grad_BLH: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The plain form of the adjoint."""
    gelu_BXL = nn.functional.gelu(y_BXL)
    value_BLH, gate_BLH = linear_channels_first(gelu_BXL, weight_ZX, bias_Z).chunk(2, dim=-1)
    open_BLH = torch.sigmoid(gate_BLH)
    dgate_BLH = grad_BLH * value_BLH * open_BLH * (1 - open_BLH)
    dwide_BLZ = torch.cat((grad_BLH * open_BLH, dgate_BLH), dim=-1)
    dgelu_BXL = (dwide_BLZ @ weight_ZX).transpose(1, 2)
    normal_BXL = torch.exp(-0.5 * y_BXL.square()) / (2 * torch.pi) ** 0.5
    slope_BXL = 0.5 * (1 + torch.erf(y_BXL / 2**0.5)) + y_BXL * normal_BXL
    dweight_ZX = torch.einsum("blz,bxl->zx", dwide_BLZ, gelu_BXL)
    return dgelu_BXL * slope_BXL, dweight_ZX, dwide_BLZ.sum((0, 1))


def _blocks(batch_size: int, length: int) -> list[tuple[int, slice]]:
    """Rows of the batch and parts of the positions that cover everything."""
    step = _BLOCK * torch.get_num_threads()
    return [
        (row, slice(start, start + step)) for row in range(batch_size) for start in range(0, length, step)
    ]
