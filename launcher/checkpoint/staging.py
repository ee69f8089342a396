"""Copies in host memory of what is saved, so that training may change the originals."""

from collections.abc import Mapping
from typing import final

import torch
from torch.utils._python_dispatch import is_traceable_wrapper_subclass


@final
class Stager:
    """Copies states of the same shape, one after the other, into the same memory (pinned, for a GPU)."""

    # Not torch's DefaultStager: that of torch 2.11 can be used once, and the second save of a run would fail.

    def __init__(self, device: torch.device) -> None:
        self._device, self._gpu = device, device.type == "cuda"
        self._copies: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def stage(self, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """Copies of the tensors, sharded as they are. They are overwritten by the next call."""
        staged = {name: self._copy(name, tensor) for name, tensor in tensors.items()}
        if self._gpu:
            torch.cuda.synchronize(self._device)
        return staged

    def _copy(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        # A sharded tensor is a wrapper of this rank's part: the part is copied, and wrapped as it was.
        if is_traceable_wrapper_subclass(tensor):
            names, context = tensor.__tensor_flatten__()
            inner = {part: getattr(tensor, part) for part in names}  # newer versions name the mesh as well
            parts = {
                part: self._copy(f"{name}/{part}", value) if isinstance(value, torch.Tensor) else value
                for part, value in inner.items()
            }
            wrapped: torch.Tensor = type(tensor).__tensor_unflatten__(
                parts, context, tensor.shape, tensor.stride()
            )
            return wrapped.detach()
        kept = self._copies.get(name)
        if kept is None or kept.shape != tensor.shape or kept.dtype != tensor.dtype:
            pinned = self._gpu and tensor.is_cuda and tensor.numel() > 0
            kept = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=pinned)
            self._copies[name] = kept
        return kept.copy_(tensor, non_blocking=self._gpu)
