"""Where numbers must stay float32 whatever the rest computes in."""

from contextlib import AbstractContextManager, nullcontext

import torch


def no_autocast(x: torch.Tensor) -> AbstractContextManager[object]:
    """Switch autocast off on the device of `x`; on meta there is none."""
    return nullcontext() if x.device.type == "meta" else torch.autocast(x.device.type, enabled=False)


def as_products_take(x: torch.Tensor) -> torch.Tensor:
    """x rounded as products round it here: once, where several take it."""
    return x.to(autocast_dtype(x) or x.dtype)


def autocast_dtype(x: torch.Tensor) -> torch.dtype | None:
    """What products of `x` are rounded to here; None outside of autocast."""
    device = x.device.type
    return (
        torch.get_autocast_dtype(device) if device != "meta" and torch.is_autocast_enabled(device) else None
    )
