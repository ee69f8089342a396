"""Elementwise optimizers that torch does not have: each entry of a parameter is updated by itself."""

from typing import Any, final

import torch
from torch.distributed.tensor import DTensor


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This rank's part of a sharded tensor, in the same memory; a plain tensor as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


@final
class Lion(torch.optim.Optimizer):
    """Lion (arXiv 2302.06675, algorithm 2).

    p -= lr (sign(b1 m + (1 - b1) g) + decay p); m = b2 m + (1 - b2) g.
    """

    def __init__(self, groups: list[dict[str, Any]], betas: tuple[float, float]) -> None:
        super().__init__(groups, {"betas": betas})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if not parameters:
                continue
            for p in parameters:
                if not self.state[p]:
                    self.state[p]["exp_avg"] = torch.zeros_like(p)
            beta1, beta2 = group["betas"]
            values = [local(p) for p in parameters]
            gradients = [local(p.grad) for p in parameters]
            averages = [local(self.state[p]["exp_avg"]) for p in parameters]
            # Into a temporary: the step and the memory interpolate the average with different betas.
            directions = torch._foreach_lerp(averages, gradients, 1 - beta1)
            torch._foreach_sign_(directions)
            torch._foreach_mul_(values, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(values, directions, alpha=-group["lr"])
            torch._foreach_lerp_(averages, gradients, 1 - beta2)


@final
class SMORMS3(torch.optim.Optimizer):
    """SMORMS3 (Simon Funk, 2015, sifter.org/~simon/journal/20150420.html).

    g and g2 average the gradient and its square. x = g^2 / (g2 + eps) is the fraction of the gradient that is
    signal; p -= grad min(lr, x) / (sqrt(g2) + eps). The memory of the averages shrinks to one step where all
    is signal. A width multiplier scales the whole minimum, not lr alone, because x does not depend on width.
    """

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        super().__init__(groups, {"mup_lr_multiplier": 1.0})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["memory"] = torch.ones_like(p)
                    state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
                self._update(
                    local(p), local(p.grad), group, {key: local(value) for key, value in state.items()}
                )

    @staticmethod
    def _update(
        p: torch.Tensor, grad: torch.Tensor, group: dict[str, Any], state: dict[str, torch.Tensor]
    ) -> None:
        memory, g, g2, eps = state["memory"], state["exp_avg"], state["exp_avg_sq"], group["eps"]
        # Pure noise has x near 0: memory grows by 1 at each step, and g and g2 average over all steps so far.
        newest = 1 / (memory + 1)
        g.lerp_(grad, newest)
        g2.lerp_(grad.square(), newest)
        signal = g.square() / (g2 + eps)
        # group["lr"] contains the width multiplier already: divided by it, it is the rate at the base width.
        factor = group["mup_lr_multiplier"]
        rate = signal.clamp(max=group["lr"] / factor) * factor
        p.sub_(grad * rate / (g2.sqrt() + eps))
        memory.mul_(1 - signal).add_(1)
