"""What every parameter is, and what follows for it: from meta-device builds, before anything is allocated."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from launcher import files
from launcher.errors import Problem, UserError
from launcher.mup.config import MupConfig
from launcher.mup.rules import Scaling, check_roles, scale_mup_adam, scale_sp
from launcher.mup.shapes import BaseShapes, Shapes, Width, find_base_shapes, hash_shapes, measure_widths
from launcher.optim.config import OptimConfig
from launcher.optim.groups import Group, make_groups
from launcher.recipe.yaml_text import dump_yaml, parse_yaml
from models.build import build_model, model_facts
from models.config import ModelConfig, with_width
from models.facts import Multipliers, ParamFacts, Role, match_facts


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """All derived facts of a model's parameters, keyed by fully qualified name."""

    shapes: Shapes
    facts: Mapping[str, ParamFacts]
    base_shapes: BaseShapes
    base_shapes_hash: str
    widths: Mapping[str, Width]
    scalings: Mapping[str, Scaling]
    groups: tuple[Group, ...]
    multipliers: Multipliers

    @property
    def num_parameters(self) -> int:
        """Total number of trainable numbers."""
        return sum(torch.Size(shape).numel() for shape in self.shapes.values())


def meta_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter, without allocating one."""
    with torch.device("meta"):
        model = build_model(config)
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def describe_parameters(model: ModelConfig, mup: MupConfig, optim: OptimConfig) -> Parameters:
    """Sort, measure and scale every parameter of a model. UserError where anything doesn't fit."""
    shapes = meta_shapes(model)
    facts = match_facts(shapes, model_facts(model))
    base_shapes = _base_shapes(model, mup, shapes)
    widths = measure_widths(shapes, base_shapes)
    if mup.type == "mup":
        check_roles({name: fact.role for name, fact in facts.items()}, widths)
        scalings = {name: scale_mup_adam(fact.role, widths[name]) for name, fact in facts.items()}
    else:
        scalings = {name: scale_sp() for name in facts}
    return Parameters(
        shapes=shapes,
        facts=facts,
        base_shapes=base_shapes,
        base_shapes_hash=hash_shapes(base_shapes),
        widths=widths,
        scalings=scalings,
        groups=make_groups(facts, scalings, optim),
        multipliers=Multipliers(readout=_one_forward(facts, scalings, Role.READOUT)),
    )


def _base_shapes(model: ModelConfig, mup: MupConfig, shapes: Shapes) -> BaseShapes:
    if mup.type == "sp":
        return {name: (None,) * len(shape) for name, shape in shapes.items()}
    if mup.base_shapes is not None:
        return read_base_shapes(mup.base_shapes)
    assert mup.base_width is not None, "the recipe compiler requires base_width or base_shapes for mup"
    delta_width = mup.delta_width or 2 * mup.base_width
    return find_base_shapes(
        meta_shapes(with_width(model, mup.base_width)), meta_shapes(with_width(model, delta_width))
    )


def _one_forward(facts: Mapping[str, ParamFacts], scalings: Mapping[str, Scaling], role: Role) -> float:
    values = {scalings[name].forward for name, fact in facts.items() if fact.role is role}
    assert len(values) <= 1, f"{role} parameters have different forward multipliers: {sorted(values)}"
    return values.pop() if values else 1.0


def dump_base_shapes(base_shapes: BaseShapes) -> str:
    """Base shapes as the `.bsh` text of the mup package: name -> list of base sizes, null where finite."""
    return dump_yaml({name: list(dims) for name, dims in base_shapes.items()})


def read_base_shapes(url: str) -> BaseShapes:
    """Read a `.bsh` file. Raises UserError where it is missing or no base-shapes file."""
    if not files.exists(url):
        raise UserError(
            Problem(
                url, "no such base-shapes file", "make one with: launch plan RECIPE, or set mup.base_width"
            )
        )
    data = parse_yaml(files.read_text(url), url)
    if not isinstance(data, dict) or not all(_is_dims(dims) for dims in data.values()):
        raise UserError(
            Problem(url, "is no base-shapes file", "each line names a parameter and a list of sizes or null")
        )
    return {str(name): tuple(dims) for name, dims in data.items()}


def _is_dims(dims: object) -> bool:
    return isinstance(dims, list) and all(d is None or (isinstance(d, int) and d > 0) for d in dims)
