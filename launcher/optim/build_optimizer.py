"""Optimizers over the planned parameter groups."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn import Parameter

from launcher.optim.config import OptimConfig
from launcher.optim.elementwise import SMORMS3, Lion
from launcher.optim.groups import Group
from launcher.optim.muon import Muon
from launcher.optim.preconditioned import SOAP, Shampoo


def build_optimizer(
    parameters: Mapping[str, Parameter], groups: Sequence[Group], config: OptimConfig
) -> torch.optim.Optimizer:
    """Put every parameter into its planned group. Raises ValueError unless each is placed exactly once.

    Parameters may be plain tensors or DTensors; state lives on the same shards.
    """
    placed = sorted(name for group in groups for name in group.parameters)
    if placed != sorted(parameters):
        raise ValueError(
            f"the plan places {len(placed)} parameters, the model has {len(parameters)}; "
            f"they differ at {sorted(set(placed) ^ set(parameters))[:5]}"
        )
    options = [_options(group, parameters) for group in groups]
    match config.type:
        case "sgd":
            return torch.optim.SGD(options, momentum=config.momentum, nesterov=config.nesterov)
        case "adam":
            return torch.optim.Adam(options, betas=config.betas, fused=True)
        case "adamw":
            return torch.optim.AdamW(options, betas=config.betas, fused=True)
        case "adagrad":
            return torch.optim.Adagrad(options)
        case "smorms3":
            return SMORMS3(options)
        case "lion":
            return Lion(options, betas=config.betas)
        case "muon":
            return Muon(options, config)
        case "shampoo":
            return Shampoo(options, config)
        case "soap":
            return SOAP(options, config)


def _options(group: Group, parameters: Mapping[str, Parameter]) -> dict[str, Any]:
    options: dict[str, Any] = {
        "name": group.name,
        "params": [parameters[name] for name in group.parameters],
        "lr": group.lr,
        "mup_lr_multiplier": group.mup_lr_multiplier,
        "update": group.update,
        "weight_decay": group.weight_decay,
    }
    return options if group.eps is None else options | {"eps": group.eps}
