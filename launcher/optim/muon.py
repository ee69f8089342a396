"""Muon for hidden matrices and AdamW for all else, as one optimizer with one state and one list of groups."""

import math
from typing import Any, final

import torch
from torch.distributed.tensor import DTensor, distribute_tensor

from launcher.optim.config import MuonConfig
from launcher.optim.elementwise import local

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Quintic whose slope at zero is largest (kellerjordan.github.io/posts/muon)."""


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The unsharded tensor, gathered on every rank."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def shard_like(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """This rank's part of a tensor that every rank has whole."""
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None).to_local()


def orthogonalise(matrix: torch.Tensor, steps: int, dtype: torch.dtype) -> torch.Tensor:
    """Singular values to about 1 (within 0.7 to 1.2 after 5 steps) by Newton-Schulz steps."""
    a, b, c = _COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.to(dtype)
    x = x.T if tall else x
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.T if tall else x).to(matrix.dtype)


@final
class Muon(torch.optim.Optimizer):
    """Groups whose update is not `adam` hold hidden matrices.

    A step gathers one sharded matrix after another on every rank and updates this rank's part.
    """

    def __init__(self, groups: list[dict[str, Any]], config: MuonConfig) -> None:
        self._momentum, self._nesterov, self._steps = config.momentum, config.nesterov, config.ns_steps
        others = [group for group in groups if group["update"] == "adam"]
        self._others = torch.optim.AdamW(others, betas=config.others.betas, fused=True) if others else None
        super().__init__(groups, {})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        if self._others is not None:
            # The inner optimizer works on this one's groups and state: there is no second copy to save or
            # schedule.
            self._others.param_groups = [group for group in self.param_groups if group["update"] == "adam"]
            self._others.state = self.state
            self._others.step()
        for group in self.param_groups:
            if group["update"] == "adam":
                continue
            for p in group["params"]:
                if p.grad is not None:
                    self._update(p, group)

    def _update(self, p: torch.Tensor, group: dict[str, Any]) -> None:
        state = self.state[p]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(p)
        assert p.grad is not None, "step() has checked it"
        buffer = state["momentum_buffer"]
        local(buffer).lerp_(local(p.grad), 1 - self._momentum)
        direction = p.grad.lerp(buffer, self._momentum) if self._nesterov else buffer
        # bfloat16 is what the iteration was made for and fast on a GPU; a CPU gains nothing by it.
        dtype = torch.bfloat16 if p.device.type == "cuda" else torch.float32
        update = orthogonalise(whole(direction), self._steps, dtype)
        fan_out, fan_in = p.shape
        spectral = group["update"] == "spectral"
        size = math.sqrt(fan_out / fan_in) if spectral else 0.2 * math.sqrt(max(fan_out, fan_in))
        values = local(p)
        values.mul_(1 - group["lr"] * group["weight_decay"])
        values.add_(shard_like(update, p), alpha=-group["lr"] * size)
