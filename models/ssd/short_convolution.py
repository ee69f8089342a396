"""The short convolution before SSD's state space, with its gradient written out.

Letters: B batch, L length, S = L + K - 1 inputs, I channels, K taps.
"""

from typing import Any, final

import torch
from torch import nn


@final
class ShortConvolution(nn.Module):
    """silu(b + sum_k w_k x_{t-k}) per channel, summed in at least float32."""

    def __init__(self, num_channels: int, num_taps: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_channels, num_taps))
        self.bias = nn.Parameter(torch.empty(num_channels))

    def forward(self, x_BLI: torch.Tensor, before_BKI: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Outputs, rounded as the input is, and the last K - 1 inputs; `before` come before the first."""
        # K - 1 earlier inputs in front make output t the sum of the K inputs t .. t + K - 1, the newest by
        # the last tap. K=4, L=1, as in generation: three kept inputs and a new one (B, 4, I) give (B, 1, I).
        # What was kept came rounded: to round it again changes nothing.
        length, dtype = x_BLI.shape[1], before_BKI.dtype
        x_BSI = torch.cat((before_BKI.to(x_BLI.dtype), x_BLI), dim=1)
        y_BLI = _SiluOfTaps.apply(x_BSI, self.weight.to(dtype), self.bias.to(dtype))
        return y_BLI, x_BSI[:, length:].to(dtype)


def silu_of_taps(x_BSI: torch.Tensor, weight_IK: torch.Tensor, bias_I: torch.Tensor) -> torch.Tensor:
    """silu(b + sum_k w_k x_{t+k}), (B, L, I): the plain form, which autograd can differentiate too."""
    return nn.functional.silu(_sum_of_taps(x_BSI, weight_IK, bias_I)).to(x_BSI.dtype)


def silu_adjoint(grad: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The gradient of silu(x) times `grad`."""
    if torch.is_grad_enabled():  # a second derivative is wanted, and torch's own operation has none
        gate = torch.sigmoid(x)
        return grad * gate * (1 + x * (1 - gate))
    found: torch.Tensor = torch.ops.aten.silu_backward(grad, x)
    return found


def _sum_of_taps(x_BSI: torch.Tensor, weight_IK: torch.Tensor, bias_I: torch.Tensor) -> torch.Tensor:
    length, y_BLI = x_BSI.shape[1] - weight_IK.shape[1] + 1, bias_I
    for k, tap_I in enumerate(weight_IK.unbind(1)):
        y_BLI = torch.addcmul(y_BLI, tap_I, x_BSI[:, k : k + length])
    return y_BLI


@final
class _SiluOfTaps(torch.autograd.Function):
    """Keeps its input only, and sums again. Differentiable again, and by torch.func."""

    # Autograd's own way back scales, sums and pads for each tap, and keeps a sum in float32.

    generate_vmap_rule = True

    @staticmethod
    def forward(x_BSI: torch.Tensor, weight_IK: torch.Tensor, bias_I: torch.Tensor) -> torch.Tensor:
        return silu_of_taps(x_BSI, weight_IK, bias_I)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad_BLI: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x_BSI, weight_IK, bias_I = ctx.saved_tensors
        y_BLI = _sum_of_taps(x_BSI, weight_IK, bias_I)
        grad_BLI = silu_adjoint(grad_BLI.to(y_BLI.dtype), y_BLI)
        length, num_taps = grad_BLI.shape[1], weight_IK.shape[1]
        # Input s is heard by outputs s - k, with tap k: the same sum with the taps in reverse, over zeros
        # before and after.
        padded = nn.functional.pad(grad_BLI, (0, 0, num_taps - 1, num_taps - 1))
        dx_BSI = weight_IK[:, -1] * padded[:, : x_BSI.shape[1]]
        for k in range(num_taps - 1):
            first = num_taps - 1 - k
            dx_BSI = torch.addcmul(dx_BSI, weight_IK[:, k], padded[:, first : first + x_BSI.shape[1]])
        dw_KI = [(grad_BLI * x_BSI[:, k : k + length]).sum((0, 1)) for k in range(num_taps)]
        return dx_BSI.to(x_BSI.dtype), torch.stack(dw_KI, dim=1), grad_BLI.sum((0, 1))
