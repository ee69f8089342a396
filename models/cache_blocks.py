"""Whether work is cut into blocks that fit a core's cache, or done on whole tensors."""

import torch


def takes_blocks(device: torch.device) -> bool:
    """On a CPU, outside of what is compiled. All code that has both ways asks here."""
    return device.type == "cpu" and not torch.compiler.is_compiling()
