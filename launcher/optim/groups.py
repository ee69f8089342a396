"""Parameter groups: every parameter is in exactly one, by its facts and its width. Pure data."""

from collections.abc import Mapping
from dataclasses import dataclass

from launcher.mup.base_shapes import Shapes
from launcher.mup.scaling import Scaling, Update
from launcher.optim.config import MatrixSection, OptimConfig, RoleRates
from launcher.optim.optimizer_table import ADAM_STATE, StateSize, optimizer_kind
from models.facts import ParamFacts, Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Parameters with the same peak learning rate, decay and eps; the schedule multiplies the peak."""

    name: str
    lr: float
    weight_decay: float
    eps: float | None
    """None where the optimizer has none."""
    mup_lr_multiplier: float
    """The parametrization's factor on the rate; lr includes it."""
    update: Update
    """How the optimizer updates them; a matrix optimizer has two kinds of update."""
    parameters: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rates:
    """Base-width values of one parameter."""

    lr: float
    weight_decay: float
    eps: float | None


def choose_update(fact: ParamFacts, shape: tuple[int, ...], config: OptimConfig) -> Update:
    """How an optimizer updates a parameter: a matrix optimizer leaves all but hidden matrices to AdamW."""
    # The shape is checked besides the role: orthogonalization and G G^T are defined for two dimensions only.
    kind = optimizer_kind(config)
    if kind.takes_matrices and not (fact.role is Role.MATRIX and len(shape) == 2):
        return "adam"
    return kind.update(config)


def make_groups(
    facts: Mapping[str, ParamFacts], shapes: Shapes, scalings: Mapping[str, Scaling], config: OptimConfig
) -> tuple[Group, ...]:
    """Sort parameters into groups of equal label, update, rate, decay and eps, in order of appearance."""
    # Besides the numbers that a group shares, the key has the label, so that logs can name the group, and the
    # width multiplier, which SMORMS3 needs apart from the rate.
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


def state_size(config: OptimConfig, update: Update, shape: tuple[int, ...]) -> StateSize:
    """State that an optimizer keeps for a parameter of that shape."""
    kind = optimizer_kind(config)
    if kind.takes_matrices and update == "adam":
        return ADAM_STATE(config, shape)
    return kind.state(config, shape)


def _label(fact: ParamFacts) -> str:
    if fact.role is Role.STATE:
        return f"ssm.{fact.ssm}"
    return str(fact.role)


def _unique(label: str, labels: list[str], position: int) -> str:
    earlier = labels[:position].count(label)
    return label if earlier == 0 else f"{label}.{earlier + 1}"


def _role_rate(role: Role, rates: RoleRates) -> float:
    match role:
        case Role.EMBEDDING | Role.TIED:
            return rates.embedding
        case Role.MATRIX:
            return rates.matrix
        case Role.READOUT:
            return rates.readout
        case Role.VECTOR:
            return rates.vector
        case Role.STATE:
            return 1.0


def _rates(fact: ParamFacts, update: Update, config: OptimConfig) -> _Rates:
    source = config.others if isinstance(config, MatrixSection) and update == "adam" else config
    values = source.model_dump(include={"lr", "weight_decay", "eps"})  # not every optimizer has the last two
    lr, weight_decay, eps = values["lr"], values.get("weight_decay", 0.0), values.get("eps")
    if fact.ssm is None:
        lr *= _role_rate(fact.role, config.rates)
        return _Rates(lr=lr, weight_decay=weight_decay if fact.decay else 0.0, eps=eps)
    rate = config.ssm.of(fact.ssm)
    lr = rate.lr if rate.lr is not None else lr * rate.lr_mult
    # Global lr 6e-3 and lr_mult 1 with cap 1e-3 give 1e-3. The cap comes before any width multiplier, because
    # it is a number for the base width, as lr is.
    capped = lr if rate.lr_cap is None else min(lr, rate.lr_cap)
    return _Rates(lr=capped, weight_decay=rate.weight_decay, eps=eps)
