"""Parameter groups: every parameter sorted exactly once by its facts and its width. Pure data."""

from collections.abc import Mapping
from dataclasses import dataclass

from launcher.mup.rules import Scaling
from launcher.optim.config import OptimConfig, SSMRates, TensorRate
from models.facts import ParamFacts, Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Parameters that share a peak learning rate and a decay; the schedule multiplies the peak."""

    name: str
    lr: float
    weight_decay: float
    parameters: tuple[str, ...]


def make_groups(
    facts: Mapping[str, ParamFacts], scalings: Mapping[str, Scaling], config: OptimConfig
) -> tuple[Group, ...]:
    """Sort parameters into groups of equal label, rate and decay, in order of first appearance."""
    sorted_names: dict[tuple[str, float, float], list[str]] = {}
    for name, fact in facts.items():
        lr, decay = _rate(fact, config)
        scaling = scalings[name]
        key = (_label(fact), lr * scaling.lr, decay * scaling.weight_decay)
        sorted_names.setdefault(key, []).append(name)
    labels = [label for label, _, _ in sorted_names]
    return tuple(
        Group(
            name=_unique(label, labels, position),
            lr=lr,
            weight_decay=decay,
            parameters=tuple(names),
        )
        for position, ((label, lr, decay), names) in enumerate(sorted_names.items())
    )


def _label(fact: ParamFacts) -> str:
    if fact.role is Role.STATE:
        return f"ssm.{fact.ssm}"
    return str(fact.role)


def _unique(label: str, labels: list[str], position: int) -> str:
    earlier = labels[:position].count(label)
    return label if earlier == 0 else f"{label}.{earlier + 1}"


def _rate(fact: ParamFacts, config: OptimConfig) -> tuple[float, float]:
    """(peak lr, weight decay) at the base width."""
    if fact.ssm is None:
        return config.lr, config.weight_decay if fact.decay else 0.0
    rate = _ssm_rate(fact.ssm, config.ssm)
    lr = rate.lr if rate.lr is not None else config.lr * rate.lr_mult
    # The cap acts on the peak before any width factor: an absolute number, hence independent of width.
    return (lr if rate.lr_cap is None else min(lr, rate.lr_cap)), rate.weight_decay


def _ssm_rate(tensor: str, rates: SSMRates) -> TensorRate:
    table = {name: getattr(rates, name) for name in SSMRates.model_fields}
    if tensor not in table:
        raise ValueError(f"facts name the SSM tensor {tensor!r}; optim.ssm has {', '.join(table)}")
    return table[tensor]
