"""Copies in host memory of what is saved, so that training may change the originals."""

from collections.abc import Mapping
from typing import final

import torch
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions


@final
class Stager:
    """Copies states of the same shape, one after the other, into the same memory (pinned, for a GPU)."""

    def __init__(self, device: torch.device) -> None:
        gpu = device.type == "cuda"
        self._stager = DefaultStager(
            StagingOptions(
                use_pinned_memory=gpu,
                use_shared_memory=False,
                use_async_staging=False,
                use_non_blocking_copy=gpu,
            )
        )

    def stage(self, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """Copies of the tensors, sharded as they are. They are overwritten by the next call."""
        staged = self._stager.stage(dict(tensors))
        assert isinstance(staged, dict), "not asynchronous"
        return staged
