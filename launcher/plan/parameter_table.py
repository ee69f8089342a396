"""The table of `launch explain`: the scaling rules, applied to the actual parameters of a recipe."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import torch

from launcher.mup.base_shapes import WidthMultiplier
from launcher.mup.scaling import Scaling
from launcher.optim.groups import Group
from launcher.optim.optimizer_table import optimizer_kind
from launcher.plan.parameters import Parameters
from launcher.recipe.schema import Recipe
from launcher.table import table_lines
from models.config import branch_factor
from models.facts import ParamFacts, Role

_LAYER = re.compile(r"\blayers\.(\d+)\.")
_MOST_ROWS = 256
"""Rows of a tensor that are drawn to estimate its initial values: enough for three digits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """Parameters that differ only in their layer."""

    name: str
    """With `layers.*.` for all layers of the pattern, `layers.{0,2}.` for some of them."""
    num_tensors: int
    shape: tuple[int, ...]
    base_shape: tuple[int | None, ...]
    role: str
    width: float
    """Width multiplier of fan-in."""
    init_mean: float
    init_std: float
    forward: float
    lr: float
    weight_decay: float
    eps: float | None
    group: str
    why: str


def explain_parameters(recipe: Recipe, parameters: Parameters) -> list[Explained]:
    """One entry per distinct kind of parameter, in the order of the model."""
    # Forty layers would give forty equal rows. Parameters are one entry if everything that is shown is equal:
    # name without the layer, shapes, role, multipliers and group. Layers whose multipliers differ keep
    # entries of their own.
    groups = {name: group for group in parameters.groups for name in group.parameters}
    folded: dict[tuple[object, ...], list[str]] = {}
    for name in parameters.shapes:
        fact, scaling = parameters.facts[name], parameters.scalings[name]
        key = (_LAYER.sub("layers.*.", name), parameters.shapes[name], parameters.base_shapes[name])
        values = (fact.role, parameters.width_multipliers[name], scaling, groups[name].name)
        folded.setdefault((*key, *values), []).append(name)
    patterns = [str(key[0]) for key in folded]
    return [
        _explain(recipe, parameters, groups, names, whole=patterns.count(pattern) == 1)
        for pattern, names in zip(patterns, folded.values(), strict=True)
    ]


def _explain(
    recipe: Recipe, parameters: Parameters, groups: Mapping[str, Group], names: Sequence[str], *, whole: bool
) -> Explained:
    name = names[0]
    fact, scaling, group = parameters.facts[name], parameters.scalings[name], groups[name]
    mean, std = _initial_values(fact, parameters.shapes[name], scaling.init)
    return Explained(
        name=_fold(names, whole=whole),
        num_tensors=len(names),
        shape=parameters.shapes[name],
        base_shape=tuple(parameters.base_shapes[name]),
        role=str(fact.role),
        width=parameters.width_multipliers[name].fan_in,
        init_mean=mean,
        init_std=std,
        forward=_forward(parameters, fact, scaling),
        lr=group.lr,
        weight_decay=group.weight_decay,
        eps=group.eps,
        group=group.name,
        why="; ".join([scaling.source, *_reasons(recipe, fact, parameters.width_multipliers[name], group)]),
    )


def _forward(parameters: Parameters, fact: ParamFacts, scaling: Scaling) -> float:
    """On what leaves its layer: the rule's factor and the recipe's."""
    match fact.role:
        case Role.READOUT | Role.TIED:
            return parameters.multipliers.readout
        case _:
            return scaling.forward


def _fold(names: Sequence[str], *, whole: bool) -> str:
    # layers.0.ffn.up.weight and layers.2.ffn.up.weight: `layers.*.ffn.up.weight` if no other entry has this
    # pattern (`whole`), else `layers.{0,2}.ffn.up.weight`.
    if len(names) == 1:
        return names[0]
    if whole:
        return _LAYER.sub("layers.*.", names[0])
    layers = ",".join(found[1] for name in names if (found := _LAYER.search(name)))
    return _LAYER.sub(f"layers.{{{layers}}}.", names[0])


def _initial_values(fact: ParamFacts, shape: tuple[int, ...], factor: float) -> tuple[float, float]:
    """Mean and standard deviation of the initial values, from some of the rows."""
    # Drawn, because an initializer can be any function (HiPPO, log-uniform dt). Fan-in is dimension 1 of most
    # weights, so fewer rows have the same distribution. In float64, or the mean of many equal values would
    # drift.
    some = torch.Size((min(shape[0], _MOST_ROWS), *shape[1:])) if shape else torch.Size(())
    values = fact.init(some, torch.Generator().manual_seed(0)).double() * factor
    return float(values.mean()), float(values.std(correction=0))


def _reasons(recipe: Recipe, fact: ParamFacts, width: WidthMultiplier, group: Group) -> Iterator[str]:
    """What the recipe changes beyond the rule."""
    if fact.ssm is not None:
        rate = recipe.optim.ssm.of(fact.ssm)
        capped = rate.lr_cap is not None and group.lr == rate.lr_cap * group.mup_lr_multiplier
        yield f"optim.ssm.{fact.ssm}" + (f" caps the peak at {rate.lr_cap:g}" if capped else "")
    elif not fact.decay:
        yield "not decayed: an embedding, gain or bias"
    if optimizer_kind(recipe.optim).takes_matrices:
        yield "AdamW of optim.others" if group.update == "adam" else recipe.optim.type
    if recipe.mup.type == "mup" and width.num_infinite == 0:
        yield "does not grow with the width"


def explain_text(recipe: Recipe, parameters: Parameters) -> str:
    """The table as text, with numbered reasons below it."""
    entries = explain_parameters(recipe, parameters)
    reasons = list(dict.fromkeys(entry.why for entry in entries))
    head = ("parameter", "shape", "role", "width x", "init", "forward x", "peak lr", "decay", "eps", "why")
    rows = [head, *(_row(entry, 1 + reasons.index(entry.why)) for entry in entries)]
    notes = [f"[{number}] {reason}" for number, reason in enumerate(reasons, start=1)]
    return "\n".join([*_heading(recipe, parameters), "", *table_lines(rows), "", *notes])


def _heading(recipe: Recipe, parameters: Parameters) -> Iterator[str]:
    mup, model = recipe.mup, recipe.model
    if mup.type == "sp":
        yield f"sp: {recipe.optim.type} at the recipe's own values; nothing scales with the width"
    elif mup.type == "umup":
        yield f"umup: {recipe.optim.type}, d_model {model.d_model}, decay {mup.weight_decay}"
        factors = parameters.multipliers.residual or ()
        pairs = ", ".join(f"{skip:.3g}/{branch:.3g}" for skip, branch in factors)
        yield f"skip/branch of each layer: {pairs}"
    else:
        base = f"base width {mup.base_width}" if mup.base_width is not None else mup.base_shapes
        yield f"mup: {recipe.optim.type}, d_model {model.d_model}, {base}, decay {mup.weight_decay}"
    yield f"base shapes {parameters.base_shapes_hash}"
    factor = branch_factor(model)
    if model.residual != "none":
        yield f"residual branches x {factor:g} (model.residual = {model.residual})"
    if shown := [f"{key} {value:g}" for key, value in parameters.tuned.items() if value != 1.0]:
        yield f"the recipe's own factors, the same at every width: {', '.join(shown)}"


def _row(entry: Explained, reason: int) -> tuple[str, ...]:
    count = f" ({entry.num_tensors} tensors)" if entry.num_tensors > 1 else ""
    return (
        entry.name + count,
        "x".join(map(str, entry.shape)),
        entry.role,
        f"{entry.width:g}",
        _show_values(entry.init_mean, entry.init_std),
        f"{entry.forward:g}",
        f"{entry.lr:.4g}",
        f"{entry.weight_decay:.4g}",
        "-" if entry.eps is None else f"{entry.eps:.3g}",
        f"[{reason}]",
    )


def _show_values(mean: float, std: float) -> str:
    if std == 0:
        return f"{mean:.3g}"
    # The mean of `count` draws from N(0, std) is off by about std / sqrt(count). A quarter of std is far
    # above that, and far below the mean of any parameter that does have one, such as log dt.
    return f"std {std:.3g}" if abs(mean) < std / 4 else f"{mean:.3g} +- {std:.3g}"


def explain_record(recipe: Recipe, parameters: Parameters) -> dict[str, object]:
    """The same as plain data."""
    return {
        "parametrisation": recipe.mup.type,
        "optimizer": recipe.optim.type,
        "base_shapes_hash": parameters.base_shapes_hash,
        "residual_factor": branch_factor(recipe.model),
        "multipliers": asdict(parameters.multipliers),
        "tuned": dict(parameters.tuned),
        "parameters": [asdict(entry) for entry in explain_parameters(recipe, parameters)],
    }
