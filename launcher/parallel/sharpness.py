"""ASAM (arXiv 2102.11600): gradients where the loss is worst nearby, by the weights' own sizes."""

from collections.abc import Sequence
from typing import final

import torch
import torch.distributed as dist

from launcher.optim.config import SharpnessConfig
from launcher.parallel.gradients import squared_norms


@final
class Perturbation:
    """Moves weights by e = rho T^2 g / |T g| with T = |w| + eta, and back; |T g| is over all pieces."""

    def __init__(self, config: SharpnessConfig, group: dist.ProcessGroup | None) -> None:
        self._config, self._group = config, group
        self._kept: list[torch.Tensor] = []

    @torch.no_grad()
    def add(self, weights: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor]) -> None:
        """Move them. A gradient that is not finite makes the next pass so too: no update is applied."""
        self._kept = [weight.clone() for weight in weights]
        # w = 2 and eta 0: T g = 2 g, of norm n; e = rho x 4 g / n, larger for larger weights.
        scales = [weight.abs() + self._config.eta for weight in weights]
        scaled = [scale * gradient for scale, gradient in zip(scales, gradients, strict=True)]
        norm = squared_norms(scaled, self._group).sum().sqrt_()
        length = (self._config.rho / norm.clamp(min=torch.finfo(torch.float32).tiny)).float()
        for weight, scale, one in zip(weights, scales, scaled, strict=True):
            weight.add_(scale * one * length)

    @torch.no_grad()
    def take_back(self, weights: Sequence[torch.Tensor]) -> None:
        """Put back the very values of before."""
        for weight, kept in zip(weights, self._kept, strict=True):
            weight.copy_(kept)
        self._kept = []
