"""What each parameter does by itself: how far it has moved, and what that alone does to its module's output.

A module's change is that of its largest part, which hides the wrong rate of a smaller one.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import nn

from launcher.check.probe import Recording, mean_abs, rerun
from models.auxiliary import is_auxiliary


def copy_parameters(model: nn.Module) -> dict[str, torch.Tensor]:
    """The values of now, by name."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@torch.no_grad()
def moves(model: nn.Module, initial: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, float]]:
    """What training has added to an entry of each parameter, in magnitude."""
    for name, parameter in model.named_parameters():
        if not is_auxiliary(name):
            yield name, typical(parameter - initial[name])


def typical(change: torch.Tensor) -> float:
    """Median magnitude of the entries that are not zero: rows of tokens that no batch has do not move.

    Neither a mean nor its square: steps and effects of A, B and dt under SGD have a heavy tail over channels,
    of which wider models see more (root mean square of A's steps width^+0.6, median width^-0.1).
    """
    moved = change[change != 0].abs()
    return float(moved.float().median()) if moved.numel() else 0.0


@torch.no_grad()
def effects(
    model: nn.Module, before: Recording, initial: Mapping[str, torch.Tensor]
) -> Iterator[tuple[str, float]]:
    """Median change of a coordinate of the output of each parameter's module, on its inputs of before.

    One parameter at a time is as trained, all others are as they were; afterwards all are as trained again.
    Parameters without influence, such as the bias of keys that no position turns, are left out.
    """
    model.eval()  # dropout would be a change that no parameter caused
    parameters, trained = dict(model.named_parameters()), copy_parameters(model)
    for name, parameter in parameters.items():
        parameter.copy_(initial[name])
    for name, parameter in parameters.items():
        if is_auxiliary(name):
            continue
        owner = _owner(name, before)
        parameter.copy_(trained[name])
        effect = typical(rerun(model, owner, before) - before.outputs[owner])
        parameter.copy_(initial[name])
        if effect > _ROUNDING * mean_abs(before.outputs[owner]):
            yield name, effect
    for name, parameter in parameters.items():
        parameter.copy_(trained[name])


_ROUNDING = 2.0**-20
"""Changes below this part of an output are those of float32's last digits."""


def _owner(parameter: str, before: Recording) -> str:
    """The smallest module with that parameter whose call was recorded."""
    owner = parameter.rpartition(".")[0]
    while owner not in before.inputs:
        owner = owner.rpartition(".")[0]
    return owner
