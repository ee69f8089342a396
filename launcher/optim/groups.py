"""Parameter groups: every parameter sorted exactly once by its facts and its width. Pure data."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from launcher.mup.base_shapes import Shapes
from launcher.mup.scaling import Scaling, Update
from launcher.optim.config import MatrixConfig, OptimConfig, SSMRates, TensorRate
from models.facts import ParamFacts, Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Parameters that share a peak learning rate, a decay and an eps; the schedule multiplies the peak."""

    name: str
    lr: float
    weight_decay: float
    eps: float | None
    """None where the optimizer has none."""
    mup_lr_multiplier: float
    """What the parametrisation made of the rate: part of lr."""
    update: Update
    """How the optimizer treats them; a matrix optimizer has two kinds."""
    parameters: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rates:
    """Base-width values of one parameter."""

    lr: float
    weight_decay: float
    eps: float | None


def choose_update(fact: ParamFacts, shape: tuple[int, ...], config: OptimConfig) -> Update:
    """How an optimizer treats a parameter: a matrix optimizer takes hidden matrices and leaves the rest to
    AdamW."""
    match config.type:
        case "sgd":
            return "sgd"
        case "adam" | "adamw" | "adagrad":
            return "adam"
        case "smorms3":
            return "smorms3"
        case "lion":
            return "sign"
        case "muon" | "shampoo" | "soap":
            return _matrix_update(config) if fact.role is Role.MATRIX and len(shape) == 2 else "adam"


def _matrix_update(config: MatrixConfig) -> Update:
    match config.type:
        case "muon":
            return "spectral" if config.scale == "spectral" else "unit_rms"
        case "shampoo":
            return "shampoo"
        case "soap":
            return "soap"


def make_groups(
    facts: Mapping[str, ParamFacts], shapes: Shapes, scalings: Mapping[str, Scaling], config: OptimConfig
) -> tuple[Group, ...]:
    """Sort parameters into groups of equal label, update, rate, decay and eps, in order of first
    appearance."""
    sorted_names: dict[tuple[str, Update, float, float, float, float | None], list[str]] = {}
    for name, fact in facts.items():
        update, scaling = choose_update(fact, shapes[name], config), scalings[name]
        base = _rates(fact, update, config)
        eps = None if base.eps is None else base.eps * scaling.eps
        lr, decay = base.lr * scaling.lr, base.weight_decay * scaling.weight_decay
        sorted_names.setdefault((_label(fact), update, lr, scaling.lr, decay, eps), []).append(name)
    labels = [key[0] for key in sorted_names]
    return tuple(
        Group(
            name=_unique(label, labels, position),
            lr=lr,
            weight_decay=decay,
            eps=eps,
            mup_lr_multiplier=mup_lr_multiplier,
            update=update,
            parameters=tuple(names),
        )
        for position, ((label, update, lr, mup_lr_multiplier, decay, eps), names) in enumerate(
            sorted_names.items()
        )
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StateSize:
    """Float32 numbers that an optimizer keeps for one parameter."""

    sharded: float
    """Cut as the parameter is."""
    whole: float = 0.0
    """Kept by every rank."""


def state_size(config: OptimConfig, update: Update, shape: tuple[int, ...]) -> StateSize:
    """What an optimizer keeps for a parameter of that shape."""
    count = float(math.prod(shape))
    match config.type:
        case "sgd":
            return StateSize(sharded=count if config.momentum else 0.0)
        case "adagrad" | "lion":
            return StateSize(sharded=count)
        case "smorms3":
            return StateSize(sharded=3 * count)
        case "adam" | "adamw":
            return StateSize(sharded=2 * count)
        case "muon" | "shampoo" | "soap":
            return _matrix_state(config, update, shape)


def _matrix_state(config: MatrixConfig, update: Update, shape: tuple[int, ...]) -> StateSize:
    count = float(math.prod(shape))
    if update == "adam":
        return StateSize(sharded=2 * count)
    if config.type == "muon":
        return StateSize(sharded=count)
    sides = shape[:1] if config.type == "soap" and config.sides == "left" else shape
    squares = 2.0 * sum(size**2 for size in sides)  # an average and what is made of it, per side
    return StateSize(sharded=count, whole=squares + (count if config.type == "soap" else 0.0))


def _label(fact: ParamFacts) -> str:
    if fact.role is Role.STATE:
        return f"ssm.{fact.ssm}"
    return str(fact.role)


def _unique(label: str, labels: list[str], position: int) -> str:
    earlier = labels[:position].count(label)
    return label if earlier == 0 else f"{label}.{earlier + 1}"


def _rates(fact: ParamFacts, update: Update, config: OptimConfig) -> _Rates:
    base = _common_rates(update, config)
    if fact.ssm is None:
        return _Rates(lr=base.lr, weight_decay=base.weight_decay if fact.decay else 0.0, eps=base.eps)
    rate = _ssm_rate(fact.ssm, config.ssm)
    lr = rate.lr if rate.lr is not None else base.lr * rate.lr_mult
    # The cap acts on the peak before any width factor: an absolute number, hence independent of width.
    capped = lr if rate.lr_cap is None else min(lr, rate.lr_cap)
    return _Rates(lr=capped, weight_decay=rate.weight_decay, eps=base.eps)


def _common_rates(update: Update, config: OptimConfig) -> _Rates:
    """Of parameters without rates of their own."""
    match config.type:
        case "sgd" | "lion":
            return _Rates(lr=config.lr, weight_decay=config.weight_decay, eps=None)
        case "adam" | "adagrad" | "smorms3":
            return _Rates(lr=config.lr, weight_decay=0.0, eps=config.eps)
        case "adamw":
            return _Rates(lr=config.lr, weight_decay=config.weight_decay, eps=config.eps)
        case "muon" | "shampoo" | "soap":
            return _matrix_or_other(update, config)


def _matrix_or_other(update: Update, config: MatrixConfig) -> _Rates:
    if update == "adam":
        others = config.others
        return _Rates(lr=others.lr, weight_decay=others.weight_decay, eps=others.eps)
    eps = None if config.type == "muon" else config.eps
    return _Rates(lr=config.lr, weight_decay=config.weight_decay, eps=eps)


def _ssm_rate(tensor: str, rates: SSMRates) -> TensorRate:
    table = {name: getattr(rates, name) for name in SSMRates.model_fields}
    if tensor not in table:
        raise ValueError(f"facts name the SSM tensor {tensor!r}; optim.ssm has {', '.join(table)}")
    return table[tensor]
