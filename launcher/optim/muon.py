"""Muon: orthogonalized momentum (kellerjordan.github.io/posts/muon)."""

import math
from typing import Any, final

import torch

from launcher.optim.config import MuonConfig
from launcher.optim.elementwise import local
from launcher.optim.matrix import MatrixOptimizer, whole

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Chosen for a steep slope at zero: small singular values grow fast, but do not converge to exactly 1."""


def orthogonalise(matrix: torch.Tensor, steps: int, dtype: torch.dtype) -> torch.Tensor:
    """Set all singular values to about 1 (within 0.7 to 1.2 after 5 steps) by Newton-Schulz steps."""
    a, b, c = _COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.to(dtype)
    # A gradient (1024, 256) is iterated as x (256, 1024), so that x x^T is (256, 256) and not (1024, 1024).
    x = x.T if tall else x
    # The iteration needs singular values up to 1, and the Frobenius norm is at least the largest one.
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(steps):
        # With G = x x^T: x <- a x + (b G + c G^2) x. Each singular value s becomes a s + b s^3 + c s^5.
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.T if tall else x).to(matrix.dtype)


@final
class Muon(MatrixOptimizer):
    """Muon; its momentum is sharded as the parameters are."""

    def __init__(self, groups: list[dict[str, Any]], config: MuonConfig) -> None:
        super().__init__(groups, config.others)
        self._momentum, self._nesterov, self._steps = config.momentum, config.nesterov, config.ns_steps

    def _first_state(self, p: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"momentum_buffer": torch.zeros_like(p)}

    def _direction(
        self, p: torch.Tensor, grad: torch.Tensor, state: dict[str, torch.Tensor], group: dict[str, Any]
    ) -> torch.Tensor:
        buffer = state["momentum_buffer"]
        local(buffer).lerp_(local(grad), 1 - self._momentum)
        direction = grad.lerp(buffer, self._momentum) if self._nesterov else buffer
        # The iteration is designed for bfloat16, which is fast on a GPU; a CPU gains nothing from it.
        dtype = torch.bfloat16 if p.device.type == "cuda" else torch.float32
        fan_out, fan_in = p.shape
        # An orthogonal (1024, 256) has norm 1 and entries of RMS 1 / sqrt(1024): `spectral` makes the norm
        # sqrt(1024 / 256) = 2, `rms` makes the entries 0.2.
        spectral = group["update"] == "spectral"
        size = math.sqrt(fan_out / fan_in) if spectral else 0.2 * math.sqrt(max(fan_out, fan_in))
        return orthogonalise(whole(direction), self._steps, dtype) * size
