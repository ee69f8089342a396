"""Optimizers over the planned parameter groups."""

from collections.abc import Mapping, Sequence

import torch
from torch.nn import Parameter

from launcher.optim.config import OptimConfig
from launcher.optim.groups import Group


def build_optimizer(
    parameters: Mapping[str, Parameter], groups: Sequence[Group], config: OptimConfig
) -> torch.optim.Optimizer:
    """Put every parameter into its planned group. Raises ValueError unless each is placed exactly once."""
    placed = sorted(name for group in groups for name in group.parameters)
    if placed != sorted(parameters):
        raise ValueError(
            f"the plan places {len(placed)} parameters, the model has {len(parameters)}; "
            f"they differ at {sorted(set(placed) ^ set(parameters))[:5]}"
        )
    options = [
        {
            "name": group.name,
            "params": [parameters[name] for name in group.parameters],
            "lr": group.lr,
            "weight_decay": group.weight_decay,
        }
        for group in groups
    ]
    return torch.optim.AdamW(options, betas=config.betas, eps=config.eps, fused=True)
