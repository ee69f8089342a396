"""Shape, role, width and scaling of every parameter, from models on the meta device: nothing is allocated."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from launcher.mup.base_shapes import (
    BaseShapes,
    Shapes,
    WidthMultiplier,
    check_finite,
    find_base_shapes,
    hash_shapes,
    measure_width_multipliers,
)
from launcher.mup.bsh import read_base_shapes
from launcher.mup.config import MupConfig
from launcher.mup.scaling import Scaling, check_roles, check_updates, scale_mup, scale_sp
from launcher.mup.umup import find_places, residual_factors, scale_umup
from launcher.optim.config import OptimConfig
from launcher.optim.groups import Group, choose_update, make_groups
from models.build_model import build_model, model_facts
from models.config import ModelConfig, branch_factor, with_width
from models.facts import Multipliers, ParamFacts, Role, match_facts

STACK = "layers."
"""Prefix of the names of parameters inside the stack of residual branches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """Everything derived for a model's parameters, by fully qualified name."""

    shapes: Shapes
    facts: Mapping[str, ParamFacts]
    base_shapes: BaseShapes
    base_shapes_hash: str
    width_multipliers: Mapping[str, WidthMultiplier]
    scalings: Mapping[str, Scaling]
    groups: tuple[Group, ...]
    multipliers: Multipliers
    tuned: Mapping[str, float]
    """The recipe's own factors, the same at every width, by key; most are 1."""

    @property
    def num_parameters(self) -> int:
        """Number of trainable values."""
        return sum(torch.Size(shape).numel() for shape in self.shapes.values())


def meta_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter, without allocating any."""
    with torch.device("meta"):
        model = build_model(config)
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def describe_parameters(
    model: ModelConfig, mup: MupConfig, optim: OptimConfig, *, seq_len: int
) -> Parameters:
    """Find role, width and scaling of every parameter of a model.

    Raises UserError if shapes, roles or names do not fit.
    """
    # shapes -> roles (from the names) -> base shapes (from two more builds) -> width multipliers (ratio of
    # the first to the third) -> scalings (table of rules) -> optimizer groups (equal scalings). For d_model
    # 128 and base_width 64: a matrix (512, 128) over (256, 64) has width multiplier 2, so Adam's rate is
    # halved.
    shapes = meta_shapes(model)
    facts = match_facts(shapes, model_facts(model))
    base_shapes = _base_shapes(model, mup, shapes)
    widths = measure_width_multipliers(
        shapes, base_shapes, {name: fact.fan_in_dim for name, fact in facts.items()}
    )
    if mup.type == "umup":
        scalings = _unit_scalings(model, mup, optim, shapes, facts, seq_len)
    else:
        scalings = _scalings(model, mup, optim, shapes, facts, widths)
    if mup.init_scale != 1.0:
        scalings = {name: _wider(facts[name], scaling, mup.init_scale) for name, scaling in scalings.items()}
    return Parameters(
        shapes=shapes,
        facts=facts,
        base_shapes=base_shapes,
        base_shapes_hash=hash_shapes(base_shapes),
        width_multipliers=widths,
        scalings=scalings,
        groups=make_groups(facts, shapes, scalings, optim),
        multipliers=_multipliers(model, mup, _one_forward(facts, scalings, (Role.READOUT, Role.TIED))),
        tuned={f"mup.multipliers.{key}": value for key, value in mup.multipliers}
        | {"mup.init_scale": mup.init_scale}
        | {f"optim.rates.{key}": value for key, value in optim.rates},
    )


def _multipliers(model: ModelConfig, mup: MupConfig, readout: float) -> Multipliers:
    """What the rules give, times what the recipe asks for."""
    tuned = mup.multipliers
    residual = None
    if mup.type == "umup":
        residual = residual_factors(model, tuned)
    elif tuned.residual != 1.0:
        residual = ((1.0, tuned.residual * branch_factor(model)),) * model.num_layers
    return Multipliers(
        readout=tuned.output * readout,
        residual=residual,
        embedding=tuned.embedding,
        attention=tuned.attention,
        ssm=tuned.ssm,
        ffn=tuned.ffn,
    )


def _wider(fact: ParamFacts, scaling: Scaling, factor: float) -> Scaling:
    if fact.role is not Role.MATRIX:
        return scaling
    source = f"{scaling.source}; mup.init_scale {factor:g}"
    return replace(scaling, init=factor * scaling.init, source=source)


def _scalings(
    model: ModelConfig,
    mup: MupConfig,
    optim: OptimConfig,
    shapes: Shapes,
    facts: Mapping[str, ParamFacts],
    widths: Mapping[str, WidthMultiplier],
) -> dict[str, Scaling]:
    if mup.type == "sp":
        return {name: scale_sp() for name in facts}
    check_roles({name: fact.role for name, fact in facts.items()}, widths)
    updates = {name: choose_update(fact, shapes[name], optim) for name, fact in facts.items()}
    check_updates(updates, widths)
    # The depth rule is for branches that are added up: embedding and readout are not, so their depth is 1.
    return {
        name: scale_mup(
            fact.role,
            widths[name],
            updates[name],
            decay=mup.weight_decay,
            depth_rule=model.residual,
            depth=model.num_layers / model.residual_base if name.startswith(STACK) else 1.0,
        )
        for name, fact in facts.items()
    }


def _unit_scalings(
    model: ModelConfig,
    mup: MupConfig,
    optim: OptimConfig,
    shapes: Shapes,
    facts: Mapping[str, ParamFacts],
    seq_len: int,
) -> dict[str, Scaling]:
    places = find_places(model, shapes, mup.multipliers, seq_len)
    return {
        name: scale_umup(
            name,
            shapes,
            facts,
            choose_update(fact, shapes[name], optim),
            place=places[name],
            decay=mup.weight_decay,
        )
        for name, fact in facts.items()
    }


def _base_shapes(model: ModelConfig, mup: MupConfig, shapes: Shapes) -> BaseShapes:
    if mup.type != "mup":
        return {name: (None,) * len(shape) for name, shape in shapes.items()}
    if mup.base_shapes is not None:
        return read_base_shapes(mup.base_shapes)
    assert mup.base_width is not None, "the recipe compiler requires base_width or base_shapes for mup"
    # Which dimensions grow is found by experiment, as in the mup package: those that differ between two
    # widths. Sizes alone do not show it: at d_model 256 and 256 bytes, an embedding (256, 256) grows in one
    # of them.
    base = meta_shapes(with_width(model, mup.base_width))
    base_shapes = find_base_shapes(
        base, meta_shapes(with_width(model, mup.delta_width or 2 * mup.base_width))
    )
    check_finite(shapes, base, base_shapes)
    return base_shapes


def _one_forward(
    facts: Mapping[str, ParamFacts], scalings: Mapping[str, Scaling], roles: tuple[Role, ...]
) -> float:
    values = {scalings[name].forward for name, fact in facts.items() if fact.role in roles}
    assert len(values) <= 1, f"{roles} parameters have different forward multipliers: {sorted(values)}"
    return values.pop() if values else 1.0
