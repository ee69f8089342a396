"""SSD's norm of gated outputs, with its gradient written out."""

from typing import Any, final

import torch
from torch import nn

from models.ssd.short_convolution import silu_adjoint

EPSILON = 1e-5


@final
class GatedNorm(nn.Module):
    """g z / rms(z) of z = y silu(gate), in at least float32 (arXiv 2405.21060, section 7.1)."""

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_channels))

    def forward(self, y_BLI: torch.Tensor, gate_BLI: torch.Tensor) -> torch.Tensor:
        """(B, L, I), at least float32."""
        dtype = torch.promote_types(y_BLI.dtype, torch.float32)
        normed: torch.Tensor = _GatedNorm.apply(y_BLI, gate_BLI, self.weight.to(dtype))
        return normed


def gated_norm(y_BLI: torch.Tensor, gate_BLI: torch.Tensor, weight_I: torch.Tensor) -> torch.Tensor:
    """The plain form, which autograd can differentiate too."""
    z_BLI = y_BLI * nn.functional.silu(gate_BLI.to(weight_I.dtype))
    return nn.functional.rms_norm(z_BLI, weight_I.shape, weight_I, EPSILON)


def _inverse_rms(z_BLI: torch.Tensor) -> torch.Tensor:
    return torch.rsqrt(z_BLI.square().mean(-1, keepdim=True) + EPSILON)


@final
class _GatedNorm(torch.autograd.Function):
    """Keeps y and the gate as they came, and gates again. Differentiable again, and by torch.func."""

    generate_vmap_rule = True

    @staticmethod
    def forward(y_BLI: torch.Tensor, gate_BLI: torch.Tensor, weight_I: torch.Tensor) -> torch.Tensor:
        return gated_norm(y_BLI, gate_BLI, weight_I)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad_BLI: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y_BLI, gate_BLI, weight_I = ctx.saved_tensors
        gate = gate_BLI.to(weight_I.dtype)
        open_BLI = nn.functional.silu(gate)
        unit_BLI = y_BLI * open_BLI
        inverse_BL1 = _inverse_rms(unit_BLI)
        unit_BLI = unit_BLI * inverse_BL1
        dweight_I = (grad_BLI * unit_BLI).sum((0, 1))
        # d(w z / r) = (w g - u mean(u w g)) / r with u = z / r: what only changes the size has no effect.
        weighed_BLI = grad_BLI * weight_I
        along_BL1 = (weighed_BLI * unit_BLI).mean(-1, keepdim=True)
        dz_BLI = (weighed_BLI - unit_BLI * along_BL1) * inverse_BL1
        del unit_BLI, weighed_BLI  # a layer's backward pass is where memory peaks
        dgate_BLI = silu_adjoint(dz_BLI * y_BLI, gate)
        return (dz_BLI * open_BLI).to(y_BLI.dtype), dgate_BLI.to(gate_BLI.dtype), dweight_I
