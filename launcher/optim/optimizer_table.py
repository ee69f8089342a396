"""The closed table of optimizers: a row is everything that other modules know about one. Torch-free.

`build` imports torch when it is called, so that a recipe can be checked without it.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from launcher.optim.config import (
    AdagradConfig,
    AdamConfig,
    AdamWConfig,
    LionConfig,
    MatrixSection,
    MuonConfig,
    OptimConfig,
    OptimSection,
    SGDConfig,
    ShampooConfig,
    SMORMS3Config,
    SOAPConfig,
)

if TYPE_CHECKING:
    import torch

    from launcher.mup.scaling import Update

Shape = tuple[int, ...]
TorchGroups = list[dict[str, Any]]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StateSize:
    """Float32 values that an optimizer keeps for one parameter."""

    sharded: float
    """Sharded as the parameter is."""
    whole: float = 0.0
    """Kept by every rank."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerKind:
    """One optimizer. Its callables receive a section of type `section`."""

    section: type[OptimSection]
    """A MatrixSection updates hidden matrices only, and leaves the rest to AdamW; others are elementwise."""
    build: Callable[[TorchGroups, Any], "torch.optim.Optimizer"]
    update: Callable[[Any], "Update"]
    """The width rule of launcher/mup/scaling.py that its steps follow."""
    state: Callable[[Any, Shape], StateSize]
    """State for a parameter that it updates itself, not AdamW."""
    zero_refusal: str | None = None
    """Why it cannot run under ZeRO 1 to 3; None where it can."""
    in_place: bool = False
    """Whether it updates without room for tensors of its own (torch's fused ones)."""
    umup: bool = False
    """Whether u-μP defines learning rates for it."""
    check_lr_cap: float | None = None
    """Peak rate above which `launch check` would saturate a small model; None where it is not known."""

    @property
    def takes_matrices(self) -> bool:
        """Whether it updates hidden matrices only."""
        return issubclass(self.section, MatrixSection)


def _per_number(count: float) -> Callable[[Any, Shape], StateSize]:
    return lambda config, shape: StateSize(sharded=count * math.prod(shape))


ADAM_STATE = _per_number(2)


def _sgd(groups: TorchGroups, config: SGDConfig) -> "torch.optim.Optimizer":
    from launcher.optim.elementwise import SGD

    return SGD(groups, momentum=config.momentum, nesterov=config.nesterov)


def _adam(groups: TorchGroups, config: AdamConfig) -> "torch.optim.Optimizer":
    import torch

    return torch.optim.Adam(groups, betas=config.betas, fused=True)


def _adamw(groups: TorchGroups, config: AdamWConfig) -> "torch.optim.Optimizer":
    import torch

    return torch.optim.AdamW(groups, betas=config.betas, fused=True)


def _adagrad(groups: TorchGroups, _config: AdagradConfig) -> "torch.optim.Optimizer":
    from launcher.optim.elementwise import Adagrad

    return Adagrad(groups)


def _smorms3(groups: TorchGroups, _config: SMORMS3Config) -> "torch.optim.Optimizer":
    from launcher.optim.elementwise import SMORMS3

    return SMORMS3(groups)


def _lion(groups: TorchGroups, config: LionConfig) -> "torch.optim.Optimizer":
    from launcher.optim.elementwise import Lion

    return Lion(groups, betas=config.betas)


def _muon(groups: TorchGroups, config: MuonConfig) -> "torch.optim.Optimizer":
    from launcher.optim.muon import Muon

    return Muon(groups, config)


def _shampoo(groups: TorchGroups, config: ShampooConfig) -> "torch.optim.Optimizer":
    from launcher.optim.preconditioned import Shampoo

    return Shampoo(groups, config)


def _soap(groups: TorchGroups, config: SOAPConfig) -> "torch.optim.Optimizer":
    from launcher.optim.preconditioned import SOAP

    return SOAP(groups, config)


def _shampoo_state(_config: ShampooConfig, shape: Shape) -> StateSize:
    # Momentum is sharded. Each side of length n has an average (n, n) and its inverse fourth root (n, n).
    return StateSize(sharded=math.prod(shape), whole=2.0 * sum(size**2 for size in shape))


def _soap_state(config: SOAPConfig, shape: Shape) -> StateSize:
    sides = shape[:1] if config.sides == "left" else shape
    # Adam's second moment is kept in the eigenbasis. Its entries mix all rows and columns, so no rank can
    # keep a shard that belongs to its part of the parameter: it is whole on every rank.
    return StateSize(sharded=math.prod(shape), whole=2.0 * sum(size**2 for size in sides) + math.prod(shape))


def optimizer_kind(config: OptimConfig) -> OptimizerKind:
    """The row of an optimizer, from the table or from an extension."""
    return config.row if isinstance(config.row, OptimizerKind) else OPTIMIZERS[config.type]


_WHOLE_MATRICES = "works on whole matrices, which ZeRO splits"

OPTIMIZERS: Mapping[str, OptimizerKind] = {
    "sgd": OptimizerKind(
        section=SGDConfig,
        build=_sgd,
        update=lambda config: "sgd",
        state=lambda config, shape: StateSize(sharded=math.prod(shape) if config.momentum else 0.0),
        check_lr_cap=0.1,
        umup=True,
    ),
    "adam": OptimizerKind(
        section=AdamConfig,
        build=_adam,
        update=lambda config: "adam",
        state=ADAM_STATE,
        in_place=True,
        umup=True,
        check_lr_cap=2**-6,
    ),
    "adamw": OptimizerKind(
        section=AdamWConfig,
        build=_adamw,
        update=lambda config: "adam",
        state=ADAM_STATE,
        in_place=True,
        umup=True,
        check_lr_cap=2**-6,
    ),
    "adagrad": OptimizerKind(
        section=AdagradConfig,
        build=_adagrad,
        update=lambda config: "adam",
        state=_per_number(1),
        # DeepSpeed builds a new torch Adagrad over its buffers, with one group and default options.
        zero_refusal="would lose its parameter groups under ZeRO",
        umup=True,
        check_lr_cap=2**-4,
    ),
    "smorms3": OptimizerKind(
        section=SMORMS3Config,
        build=_smorms3,
        update=lambda config: "smorms3",
        state=_per_number(3),
        umup=True,
        check_lr_cap=2**-6,
    ),
    "lion": OptimizerKind(
        section=LionConfig,
        build=_lion,
        update=lambda config: "sign",
        state=_per_number(1),
        umup=True,
        check_lr_cap=2**-9,
    ),
    "muon": OptimizerKind(
        section=MuonConfig,
        build=_muon,
        update=lambda config: "spectral" if config.scale == "spectral" else "unit_rms",
        state=_per_number(1),
        zero_refusal=_WHOLE_MATRICES,
        check_lr_cap=2**-6,
    ),
    "shampoo": OptimizerKind(
        section=ShampooConfig,
        build=_shampoo,
        update=lambda config: "shampoo",
        state=_shampoo_state,
        zero_refusal=_WHOLE_MATRICES,
        check_lr_cap=2**-6,  # of AdamW's parameters
    ),
    "soap": OptimizerKind(
        section=SOAPConfig,
        build=_soap,
        update=lambda config: "soap",
        state=_soap_state,
        zero_refusal=_WHOLE_MATRICES,
        check_lr_cap=2**-6,  # of AdamW's parameters
    ),
}
