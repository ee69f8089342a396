"""Elementwise optimizers of our own: each entry of a parameter is updated by itself.

As in torch's fused ones, nothing changes in a step where the attribute `found_inf` is 1.
"""

from typing import Any, final

import torch
from torch.distributed.tensor import DTensor

from launcher.optim.skipping import unless_skipped


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
        self.found_inf: torch.Tensor | None = None

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                if not self.state[p]:
                    self.state[p]["exp_avg"] = torch.zeros_like(p)
                value, gradient, average = local(p), local(p.grad), local(self.state[p]["exp_avg"])
                with unless_skipped(self.found_inf, [value, average]):
                    # The step and the memory interpolate the average with different betas.
                    direction = average.lerp(gradient, 1 - beta1).sign_()
                    value.mul_(1 - group["lr"] * group["weight_decay"])
                    value.add_(direction, alpha=-group["lr"])
                    average.lerp_(gradient, 1 - beta2)


@final
class SMORMS3(torch.optim.Optimizer):
    """SMORMS3 (Simon Funk, 2015, sifter.org/~simon/journal/20150420.html).

    g and g2 average the gradient and its square. x = g^2 / (g2 + eps) is the fraction of the gradient that is
    signal; p -= grad min(lr, x) / (sqrt(g2) + eps). The memory of the averages shrinks to one step where all
    is signal. A width multiplier scales the whole minimum, not lr alone, because x does not depend on width.
    """

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        super().__init__(groups, {"mup_lr_multiplier": 1.0})
        self.found_inf: torch.Tensor | None = None

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
                values = {key: local(value) for key, value in state.items()}
                with unless_skipped(self.found_inf, [local(p), *values.values()]):
                    self._update(local(p), local(p.grad), group, values)

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


@final
class Adagrad(torch.optim.Optimizer):
    """Adagrad as torch's: sum += g^2; p -= lr g / (sqrt(sum) + eps). Torch's cannot skip an update."""

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        super().__init__(groups, {})
        self.found_inf: torch.Tensor | None = None

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["step"], state["sum"] = torch.zeros((), device=p.device), torch.zeros_like(p)
                value, total, gradient = local(p), local(state["sum"]), local(p.grad)
                with unless_skipped(self.found_inf, [value, total, state["step"]]):
                    state["step"] += 1
                    gradient = gradient.add(value, alpha=group["weight_decay"])
                    total.addcmul_(gradient, gradient)
                    value.addcdiv_(gradient, total.sqrt().add_(group["eps"]), value=-group["lr"])


@final
class SGD(torch.optim.Optimizer):
    """As torch's: m = momentum m + g; p -= lr m, or with nesterov p -= lr (g + momentum m).

    Torch's can skip an update only where nothing is sharded.
    """

    def __init__(self, groups: list[dict[str, Any]], momentum: float, nesterov: bool) -> None:
        super().__init__(groups, {})
        self._momentum, self._nesterov = momentum, nesterov
        self.found_inf: torch.Tensor | None = None

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if self._momentum and not state:
                    state["momentum_buffer"] = torch.zeros_like(p)
                value, memory = local(p), [local(tensor) for tensor in state.values()]
                with unless_skipped(self.found_inf, [value, *memory]):
                    direction = local(p.grad).add(value, alpha=group["weight_decay"])
                    for buffer in memory:
                        buffer.mul_(self._momentum).add_(direction)
                        direction = direction.add(buffer, alpha=self._momentum) if self._nesterov else buffer
                    value.add_(direction, alpha=-group["lr"])
