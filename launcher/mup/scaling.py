"""The one table of scaling rules: (role, width, depth, kind of update) -> factors, each row with its source.

Every factor is a product of powers of the growth of fan-in, fan-out and depth over the base: 1 at the base.
Under `umup` the base is one, so that growth is the size itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from launcher.errors import Problem, UserError
from launcher.mup.base_shapes import WidthMultiplier
from launcher.mup.config import DecayPolicy
from models.facts import Role

DepthRule = Literal["none", "depth_sqrt", "completep"]
"""The values of model.residual."""

Update = Literal["sgd", "adam", "sign", "smorms3", "spectral", "unit_rms", "shampoo", "soap"]
"""How an optimizer turns a gradient into a step, as far as width and depth are concerned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """Factors on what the standard parametrisation would do at the base; all 1.0 there."""

    init: float = 1.0
    """On the initial value, which the model already draws with its own fan-in."""
    forward: float = 1.0
    """On the layer's output."""
    gradient: float = 1.0
    """On the gradient of the layer's input, in place of `forward` where the two differ."""
    lr: float = 1.0
    weight_decay: float = 1.0
    eps: float = 1.0
    """On the optimizer's eps, which is compared with gradients."""
    source: str = "standard parametrisation"


@dataclass(frozen=True, slots=True)
class Powers:
    """fan_in^a x fan_out^b, of growth over the base."""

    fan_in: float = 0.0
    fan_out: float = 0.0

    def of(self, width: WidthMultiplier) -> float:
        """The factor at a width."""
        return float(width.fan_in**self.fan_in * width.fan_out**self.fan_out)


ONE = Powers()


# How to read the rows, for a hidden matrix W (fan_out, fan_in) in h = W x with x of order 1. One step changes
# W by lr times an update that agrees with x in sign, so fan_in terms add up and h changes by
# lr x (size of an entry) x fan_in. That has to be of order 1 at every width:
#   adam, sign: entries of order 1, hence lr 1/fan_in.
#   sgd: entries are gradients, of order 1/fan_out, hence lr fan_out/fan_in.
#   unit_rms: entries of order 1, but those of an orthogonal matrix, whose norm is sqrt(width): lr width^-1/2.
#   spectral: the update's norm is sqrt(fan_out/fan_in) by itself: nothing to add.
# Where only one dimension grows, an Adam step of order 1 is right at every width. eps has the size of the
# gradient that it is compared with, so that at any width it matters as much as at the base.
# Example: d_model 32 -> 256 is growth 8. Adam's rate of a matrix is 1/8 of the recipe's and its eps too; the
# readout's init is sqrt(8) times 1/sqrt(fan_in), its product is divided by 8, and its rate stays.


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRow:
    """What a parametrisation does to a parameter's layer, whatever the optimizer."""

    init: Powers = ONE
    forward: Powers = ONE
    gradient: Powers | None = None
    """None: the same as forward."""
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateRow:
    """What width does to a parameter's peak rate and eps under one kind of update."""

    lr: Powers = ONE
    eps: Powers = ONE
    source: str


_TP5 = "TP-V (arXiv 2203.03466) Table 8"
_TP4B = "TP-IVb (arXiv 2308.01814): per-channel maps are tensor-program nonlinearities"
_EPS = "eps as the gradient"
_UMUP = "u-muP (arXiv 2407.17465)"
_SPECTRAL = "spectral condition (arXiv 2310.17813)"

MUP_LAYERS = {
    Role.EMBEDDING: LayerRow(source=f"{_TP5}, input weights: variance 1"),
    Role.MATRIX: LayerRow(source=f"{_TP5}, hidden weights: variance 1/fan_in"),
    # the model draws std 1/sqrt(fan_in); Table 8 wants variance 1 and an output multiplier 1/fan_in
    Role.READOUT: LayerRow(
        init=Powers(fan_in=0.5),
        forward=Powers(fan_in=-1),
        source=f"{_TP5}, output weights: multiplier 1/fan_in",
    ),
    # one table for both uses: variance 1 as an embedding, and the output multiplier where it reads out
    Role.TIED: LayerRow(
        forward=Powers(fan_in=-1), source=f"{_TP5}, input weights, read out with multiplier 1/fan_in"
    ),
    Role.VECTOR: LayerRow(source=f"{_TP5}, biases and gains"),
    Role.STATE: LayerRow(source=f"vector-like at fixed state size; {_TP4B}"),
}

# every role with exactly one growing dimension: growth is fan_in and fan_out alike
_ONE_WIDTH = (Role.EMBEDDING, Role.READOUT, Role.TIED, Role.VECTOR, Role.STATE)
_NORMALISED = UpdateRow(eps=Powers(fan_in=-1), source=f"rate 1; {_EPS} 1/width")
_SIGN = UpdateRow(source="rate 1")
_GROWING = UpdateRow(lr=Powers(fan_in=1), source="SGD rate x width, for gradients fall as 1/width")

MUP_UPDATES: dict[Update, dict[Role, UpdateRow]] = {
    "adam": {
        Role.MATRIX: UpdateRow(
            lr=Powers(fan_in=-1), eps=Powers(fan_out=-1), source=f"Adam rate 1/fan_in; {_EPS} 1/fan_out"
        ),
        **dict.fromkeys(_ONE_WIDTH, _NORMALISED),
    },
    "smorms3": {
        Role.MATRIX: UpdateRow(
            lr=Powers(fan_in=-1),
            eps=Powers(fan_out=-2),
            source="Adam rate 1/fan_in; eps as the square gradient",
        ),
        **dict.fromkeys(
            _ONE_WIDTH,
            UpdateRow(eps=Powers(fan_in=-2), source="rate 1; eps as the square gradient"),
        ),
    },
    "sign": {
        Role.MATRIX: UpdateRow(
            lr=Powers(fan_in=-1), source="sign update: Adam rate 1/fan_in (arXiv 2512.05620)"
        ),
        **dict.fromkeys(_ONE_WIDTH, _SIGN),
    },
    "sgd": {
        Role.MATRIX: UpdateRow(lr=Powers(fan_in=-1, fan_out=1), source="SGD rate fan_out/fan_in"),
        **dict.fromkeys(_ONE_WIDTH, _GROWING),
    },
    # Matrix updates take hidden matrices only; every other parameter goes through AdamW and its rows.
    "spectral": {Role.MATRIX: UpdateRow(source=f"the update has norm sqrt(fan_out/fan_in): {_SPECTRAL}")},
    "unit_rms": {
        Role.MATRIX: UpdateRow(
            lr=Powers(fan_in=-0.5),
            source="orthogonal update of fixed rms: rate width^-1/2 (arXiv 2512.05620)",
        )
    },
    "shampoo": {
        Role.MATRIX: UpdateRow(
            lr=Powers(fan_in=-0.5, fan_out=0.5), source=f"L^-1/4 G R^-1/4 has norm 1: {_SPECTRAL}"
        )
    },
    # The low-rank argument would give both kinds of SOAP less than Adam's 1/fan_in; launch check fails it.
    "soap": {
        Role.MATRIX: UpdateRow(
            lr=Powers(fan_in=-1), source="measured: entries of order 1 in the eigenbasis, Adam rate 1/fan_in"
        )
    },
}

_GROWING_DIMENSIONS = {
    Role.EMBEDDING: (0, 1),
    Role.MATRIX: (0, 2),  # 0 where no dimension grows at all, such as a fixed-size projection
    Role.READOUT: (0, 1),
    Role.TIED: (0, 1),
    Role.VECTOR: (0, 1),
    Role.STATE: (0, 1),
}
"""Allowed numbers of infinite dimensions per role: anything else is a delta model that forgot to grow one."""

DECAY_POWER: dict[DecayPolicy, float] = {"constant": 1.0, "sqrt": 0.5, "independent": 0.0}
"""The decay's factor is the rate's width factor to minus this."""

DEPTH_POWER: dict[DepthRule, float] = {"none": 0.0, "depth_sqrt": 0.5, "completep": 1.0}
"""alpha: the model multiplies every residual branch by depth^-alpha."""

_DEPTH_SOURCE = {"depth_sqrt": "Depth-muP (arXiv 2310.02244)", "completep": "CompleteP (arXiv 2505.01618)"}


def scale_sp() -> Scaling:
    """Standard parametrisation: nothing scales."""
    return Scaling()


def scale_mup(
    role: Role,
    width: WidthMultiplier,
    update: Update,
    *,
    decay: DecayPolicy = "constant",
    depth_rule: DepthRule = "none",
    depth: float = 1.0,
) -> Scaling:
    """Maximal update parametrisation. `depth` is the growth of a parameter inside the stack, 1 outside it."""
    # Matrix updates have a row for matrices alone: whatever has another role comes here with AdamW's.
    layer, row = MUP_LAYERS[role], MUP_UPDATES[update][role]
    lr_of_width = row.lr.of(width)
    lr_of_depth, eps_of_depth = _depth_factors(update, DEPTH_POWER[depth_rule], depth)
    forward = layer.forward.of(width)
    sources = [layer.source, row.source]
    if depth_rule != "none" and depth != 1.0:
        sources.append(_DEPTH_SOURCE[depth_rule])
    return Scaling(
        init=layer.init.of(width),
        forward=forward,
        gradient=forward,
        lr=lr_of_width * lr_of_depth,
        # by width alone, as in CompleteP's table
        weight_decay=lr_of_width ** -DECAY_POWER[decay],
        eps=row.eps.of(width) * eps_of_depth,
        source="; ".join(sources),
    )


def _depth_factors(update: Update, alpha: float, depth: float) -> tuple[float, float]:
    """(lr, eps). A branch's change is depth^-alpha x lr x gradient^p, and `depth` of them add up.

    Gradients inside the stack fall as depth^-alpha: p = 1 for SGD, 0 for updates whose size does not follow
    them.
    """
    if alpha == 0.0:
        return 1.0, 1.0
    # depth 4, alpha 1/2: each of 4 branches enters with 1/2. Adam: 4 x 1/2 x lr = 1 for lr = 1/2 = 4^(-1/2).
    # SGD's gradient has the 1/2 a second time: 4 x 1/2 x 1/2 x lr = 1 for lr = 1 = 4^0.
    lr = depth ** (2 * alpha - 1) if update == "sgd" else depth ** (alpha - 1)
    # How often the gradient's fall enters what eps is added to: once in |g|, twice in g^2.
    power = {"adam": 1, "soap": 1, "smorms3": 2, "shampoo": 2}.get(update, 0)
    eps = depth ** (-alpha * power)
    return float(lr), float(eps)


def check_roles(roles: Mapping[str, Role], widths: Mapping[str, WidthMultiplier]) -> None:
    """Raise UserError for every parameter whose growing dimensions do not fit its role."""
    problems = [
        Problem(
            name,
            f"is a {role} parameter with {widths[name].num_infinite} growing dimension(s); "
            f"allowed {' or '.join(map(str, _GROWING_DIMENSIONS[role]))}",
            "let every width-like dimension of the model follow d_model, in the base and in the delta model",
            key="mup.base_shapes",
        )
        for name, role in roles.items()
        if widths[name].num_infinite not in _GROWING_DIMENSIONS[role]
    ]
    if problems:
        raise UserError(*problems)


def check_updates(updates: Mapping[str, Update], widths: Mapping[str, WidthMultiplier]) -> None:
    """Raise UserError for updates whose rule holds only where both sides of a matrix grow alike."""
    problems = [
        Problem(
            name,
            f"grows {widths[name].fan_in:g} x in fan_in and {widths[name].fan_out:g} x in fan_out, "
            "for which the rate of optim.scale = rms is not known",
            "use optim.scale=spectral",
            key="optim.scale",
        )
        for name, update in updates.items()
        if update == "unit_rms" and widths[name].fan_in != widths[name].fan_out
    ]
    if problems:
        raise UserError(*problems)
