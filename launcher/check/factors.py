"""Every parameter's rate, decay, eps, init and multiplier, derived a second time; nothing is trained.

launcher/mup/scaling.py has a table of powers. Here the same numbers follow from what they are for, so that an
error of either shows. With g_in and g_out, by which a tensor's own dimensions have grown over the base:

  output   forward x (update of an entry) x lr x (inputs that agree) is 1: features move alike at any width
  decay    lr x decay is 1, or as mup.weight_decay says
  eps      is as an entry of the gradient, as often as it is compared with one
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

from launcher.check.coordinates import READOUT, Measure
from launcher.check.health import Finding
from launcher.check.shrink import shrink_recipe
from launcher.mup.scaling import DECAY_POWER, DEPTH_POWER, Update
from launcher.optim.groups import Group
from launcher.plan.parameters import Parameters
from launcher.plan.plan import make_plan
from launcher.recipe.schema import Recipe
from models.facts import Role

_CLOSE = 1e-6
_OF_NORM: tuple[Update, ...] = ("spectral", "unit_rms", "shampoo")
"""Updates with a norm of their own: entries depend on the gradient's rank, at most the tokens of a batch."""
_SHOWN = 4


@final
@dataclass(frozen=True, slots=True)
class Factors:
    """What the growth of one tensor does to it; all 1 at the base."""

    init: float
    forward: float
    lr: float
    weight_decay: float
    eps: float


def check_factors(recipe: Recipe, widths: Sequence[int]) -> Finding:
    """The table and the optimizer's groups at every width, by parameter; u-muP's own table is not derived."""
    recipes = {width: shrink_recipe(recipe, d_model=width, seed=recipe.seed) for width in widths}
    found = {width: make_plan(one, 1).parameters for width, one in recipes.items()}
    wrong: dict[str, str] = {}
    count = 0
    for width, parameters in found.items():
        for name, what, seen, expected in _compared(recipes[width], parameters, found[widths[0]]):
            count += 1
            if not math.isclose(seen, expected, rel_tol=_CLOSE):
                wrong.setdefault(f"{name} {what}", _explain(parameters, name, what, seen, expected, width))
    lines = list(wrong.values())
    more = f" and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
    return Finding(
        "factors of every parameter",
        not lines,
        f"{len(lines)} of {count} differ",
        "none",
        "; ".join(lines[:_SHOWN]) + more,
    )


def _compared(
    recipe: Recipe, parameters: Parameters, first: Parameters
) -> Iterator[tuple[str, str, float, float]]:
    """(parameter, what, found, expected) of the table, and of the groups relative to the first width."""
    groups, first_groups = _by_name(parameters.groups), _by_name(first.groups)
    readout = [name for name, fact in parameters.facts.items() if fact.role in (Role.READOUT, Role.TIED)]
    for name in readout:
        multiplier = derive(recipe, parameters, name, groups[name].update).forward
        asked = multiplier * recipe.mup.multipliers.output
        yield name, "multiplier of the model", parameters.multipliers.readout, asked
    for name, scaling in parameters.scalings.items():
        expected = derive(recipe, parameters, name, groups[name].update)
        before = derive(recipe, first, name, groups[name].update)
        # What SOAP and Shampoo compare their eps with is not an entry of the gradient.
        eps = () if groups[name].update in ("soap", "shampoo") else ("eps",)
        for what in ("init", "forward", "lr", "weight_decay", *eps):
            yield name, what, getattr(scaling, what), getattr(expected, what)
        # What the optimizer is given: a factor may be right in the table and get lost on its way.
        for what in ("lr", "weight_decay", *eps):
            now, then = getattr(groups[name], what), getattr(first_groups[name], what)
            if now and then:
                ratio = getattr(expected, what) / getattr(before, what)
                yield name, f"{what} of its group", now / then, ratio


def _by_name(groups: Sequence[Group]) -> dict[str, Group]:
    return {name: group for group in groups for name in group.parameters}


def derive(recipe: Recipe, parameters: Parameters, name: str, update: Update) -> Factors:
    """The factors of one parameter, from its role, its growth, and how it is updated."""
    role = parameters.facts[name].role
    start = recipe.mup.init_scale if role is Role.MATRIX else 1.0
    if recipe.mup.type != "mup":
        return Factors(start, 1.0, 1.0, 1.0, 1.0)
    g_in, g_out = growth(parameters, name, role)
    forward = 1 / g_in if role in (Role.READOUT, Role.TIED) else 1.0
    # Only the inputs of a matrix are so many that what agrees among them adds up: a readout's do too, which
    # its multiplier takes back; an embedding, a gain, a bias and a state have one input, or a fixed few.
    agreeing = g_in if role in (Role.MATRIX, Role.READOUT) else 1.0
    if role is Role.TIED:
        agreeing = 1 / forward  # as a readout; as an embedding it has one input, and no multiplier
    # Backward, the loss reaches each of g_out outputs with 1/g_out. At a readout it is 1, times `forward`.
    gradient = 1 / g_out if role is Role.MATRIX else 1 / max(g_in, g_out)
    entry = _entry(update, gradient, g_in, g_out)
    branch, branches = _branches(recipe, name)
    # A branch's gradient is smaller by its factor too, which only SGD's steps follow.
    in_depth = branches * branch * (branch if update == "sgd" else 1.0)
    compared = {"adam": 1, "smorms3": 2}.get(update, 0)
    width_lr = 1 / (forward * agreeing * entry)
    return Factors(
        init=math.sqrt(g_in) if role is Role.READOUT else start,
        forward=forward,
        lr=width_lr / in_depth,
        weight_decay=width_lr ** -DECAY_POWER[recipe.mup.weight_decay],
        eps=(gradient * branch) ** compared,
    )


def _branches(recipe: Recipe, name: str) -> tuple[float, float]:
    """Factor of a residual branch, and how many add up, over those at the base depth; 1 outside the stack."""
    power = DEPTH_POWER[recipe.model.residual]
    if not name.startswith("layers.") or power == 0.0:
        return 1.0, 1.0
    depth = recipe.model.num_layers / recipe.model.residual_base
    return depth**-power, depth


def growth(parameters: Parameters, name: str, role: Role) -> tuple[float, float]:
    """(g_in, g_out): of a tensor's own dimensions over those of the base; of one that grows, both."""
    ratios = [
        1.0 if base is None else size / base
        for size, base in zip(parameters.shapes[name], parameters.base_shapes[name], strict=True)
    ]
    if role is Role.MATRIX and len(ratios) >= 2:
        return ratios[1], ratios[0]
    largest = max([1.0, *ratios], key=lambda ratio: abs(math.log(ratio)))
    return largest, largest


def _entry(update: Update, gradient: float, g_in: float, g_out: float) -> float:
    """Size of an entry of the update, for which the inputs that agree are counted.

    adam, sign, smorms3: 1. sgd: that of the gradient. soap: 1, measured. Others keep a norm: spectral
    sqrt(g_out / g_in), shampoo 1, unit_rms sqrt(g_in); what such an update does to an output is its norm
    times sqrt(g_in / g_out), and not g_in entries that agree.
    """
    through = math.sqrt(g_in / g_out)
    match update:
        case "sgd":
            return gradient
        case "spectral":
            return math.sqrt(g_out / g_in) * through / g_in
        case "shampoo":
            return through / g_in
        case "unit_rms":
            return math.sqrt(g_in) * through / g_in
        case _:
            return 1.0


def expected_exponents(recipe: Recipe, widths: Sequence[int]) -> dict[tuple[Measure, str], float]:
    """How each parameter's move and effect must grow with width; without those that have no single answer."""
    small, large = (
        make_plan(shrink_recipe(recipe, d_model=width, seed=recipe.seed), 1).parameters
        for width in (widths[0], widths[-1])
    )
    expected: dict[tuple[Measure, str], float] = {}
    span = math.log(widths[-1] / widths[0])
    for group in large.groups:
        for name in group.parameters:
            if group.update == "sgd" and large.shapes[name] == small.shapes[name]:
                continue  # gradients of what all channels share fall with width until channels agree
            expected["alone", name] = _effect_exponent(recipe, large, name)
            absolute = recipe.mup.type != "mup" and group.update == "sgd"  # its gradients have no row of ours
            if group.update not in _OF_NORM and not absolute:
                sizes = [_moved(recipe, parameters, name, group.update) for parameters in (small, large)]
                expected["moved", name] = math.log(sizes[1] / sizes[0]) / span
    return expected


def falling_names(recipe: Recipe) -> list[str]:
    """Parts of names of what may fall as width^-1/2 in the first steps, under rules that are right."""
    model, optim = recipe.model, recipe.optim
    falling = [] if model.readout_zero_init else [READOUT]
    if optim.type == "sgd" and "attention" in model.pattern and model.attention.num_heads is not None:
        # The gradient of a logit is a sum over a head's d values: sqrt(d) of them before they agree. SGD's
        # steps follow it; of heads of one size it does not change.
        falling += ["attention.query", "attention.key"]
    return falling


def _effect_exponent(recipe: Recipe, parameters: Parameters, name: str) -> float:
    """0: the effect of every parameter stays. u-muP's embeddings and biases of matrices learn less with width
    (arXiv 2407.17465, section 4.4; unit-scaling's bias has rate 1 after a multiplier fan_in^-1/2)."""
    weight = parameters.facts.get(f"{name.removesuffix('bias')}weight")
    of_matrix = name.endswith(".bias") and weight is not None and weight.role is Role.MATRIX
    less = of_matrix or parameters.facts[name].role is Role.EMBEDDING
    return -0.5 if recipe.mup.type == "umup" and less else 0.0


def _moved(recipe: Recipe, parameters: Parameters, name: str, update: Update) -> float:
    """Size of an entry of a step."""
    if recipe.mup.type != "mup":
        return parameters.scalings[name].lr
    role = parameters.facts[name].role
    g_in, g_out = growth(parameters, name, role)
    lr = derive(recipe, parameters, name, update).lr
    if update == "sgd":
        return lr * (1 / g_out if role is Role.MATRIX else 1 / g_in)
    return lr


def _explain(parameters: Parameters, name: str, what: str, seen: float, expected: float, width: int) -> str:
    """In words, with the growth that would explain what was found, where one does."""
    g_in, g_out = growth(parameters, name, parameters.facts[name].role)
    line = f"{name}: {what} is x {seen:.4g}, not x {expected:.4g}, at width {width}, {g_in:.4g} x the base"
    if math.isclose(seen, 1.0, rel_tol=_CLOSE):
        return f"{line}, as if it had no factor"
    if expected > 0 and seen > 0 and not math.isclose(expected, 1.0, rel_tol=_CLOSE):
        power = math.log(expected) / math.log(max(g_in, g_out))
        return f"{line}, as if its base were {width / seen ** (1 / power):.4g} wide"
    return line
