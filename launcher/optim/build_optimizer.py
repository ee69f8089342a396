"""Optimizers over the planned parameter groups."""

from collections.abc import Mapping, Sequence

import torch
from torch.nn import Parameter

from launcher.optim.config import OptimConfig
from launcher.optim.groups import Group
from launcher.optim.optimizer_table import TorchGroups, optimizer_kind


def build_optimizer(
    parameters: Mapping[str, Parameter], groups: Sequence[Group], config: OptimConfig
) -> torch.optim.Optimizer:
    """Put every parameter into its planned group. Raises ValueError unless each is placed exactly once.

    Parameters may be plain tensors or DTensors; elementwise state is sharded as they are.
    """
    # A parameter without a group would silently not train; one in two groups would be updated twice.
    placed = sorted(name for group in groups for name in group.parameters)
    if placed != sorted(parameters):
        raise ValueError(
            f"the plan places {len(placed)} parameters, the model has {len(parameters)}; "
            f"they differ at {sorted(set(placed) ^ set(parameters))[:5]}"
        )
    options: TorchGroups = []
    for group in groups:
        eps = {} if group.eps is None else {"eps": group.eps}
        options.append(
            {
                "name": group.name,
                "params": [parameters[name] for name in group.parameters],
                "lr": group.lr,
                "mup_lr_multiplier": group.mup_lr_multiplier,
                "update": group.update,
                "weight_decay": group.weight_decay,
                **eps,
            }
        )
    return optimizer_kind(config).build(options, config)
