"""Base of optimizers that need whole matrices: a subclass updates hidden matrices, AdamW the rest."""

import abc
from typing import Any

import torch
from torch.distributed.tensor import DTensor, distribute_tensor

from launcher.optim.config import OtherRates
from launcher.optim.elementwise import local
from launcher.optim.skipping import unless_skipped


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The unsharded tensor, gathered on every rank."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def shard_like(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """This rank's part of a tensor that every rank has whole."""
    if not isinstance(like, DTensor):
        return tensor
    # src_data_rank=None: no broadcast, each rank slices its own copy.
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None).to_local()


class MatrixOptimizer(torch.optim.Optimizer, abc.ABC):
    """Abstract. One optimizer with one state and one list of groups; AdamW updates those of update `adam`.

    A step gathers sharded matrices on every rank, one after the other, and updates this rank's part of each.
    As in torch's fused optimizers, nothing changes in a step where the attribute `found_inf` is 1.
    """

    waits = False
    """Whether a step waits for the device in any case, for decompositions of matrices."""

    def __init__(self, groups: list[dict[str, Any]], others: OtherRates) -> None:
        own = [group for group in groups if group["update"] == "adam"]
        self._others = torch.optim.AdamW(own, betas=others.betas, fused=True) if own else None
        super().__init__(groups, {})
        self.found_inf: torch.Tensor | None = None

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        if self.waits and self.found_inf is not None and bool(self.found_inf > 0):
            return
        if self._others is not None:
            # The inner optimizer works on this one's groups and state, so checkpoints have one of each. They
            # are set at every step, because loading a checkpoint replaces both.
            self._others.param_groups = [group for group in self.param_groups if group["update"] == "adam"]
            self._others.state = self.state
            self._others.found_inf = self.found_inf  # type: ignore[attr-defined]
            self._others.step()
        for group in self.param_groups:
            if group["update"] == "adam":
                continue
            for p in group["params"]:
                if p.grad is None:
                    continue
                if not self.state[p]:
                    self.state[p].update(self._first_state(p))
                values, state = local(p), self.state[p]
                undoable = [] if self.waits else [values, *(local(value) for value in state.values())]
                with unless_skipped(self.found_inf, undoable):
                    update = self._direction(p, p.grad, state, group)
                    values.mul_(1 - group["lr"] * group["weight_decay"])
                    values.add_(shard_like(update, p), alpha=-group["lr"])

    @abc.abstractmethod
    def _first_state(self, p: torch.Tensor) -> dict[str, torch.Tensor]:
        """State of a parameter before its first step."""

    @abc.abstractmethod
    def _direction(
        self, p: torch.Tensor, grad: torch.Tensor, state: dict[str, torch.Tensor], group: dict[str, Any]
    ) -> torch.Tensor:
        """The whole, unsharded update of one matrix at rate 1; advances its state in place."""
