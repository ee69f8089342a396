"""The one table of scaling rules: (role, width) -> factors on init, forward, learning rate and decay."""

from dataclasses import dataclass

from launcher.errors import Problem, UserError
from launcher.mup.shapes import Width
from models.facts import Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """Factors on what the standard parametrisation would do at the base width; all 1.0 there."""

    init: float = 1.0
    """On the initial value, which the model already draws with its own fan-in."""
    forward: float = 1.0
    """On the layer's output."""
    lr: float = 1.0
    weight_decay: float = 1.0
    source: str = "standard parametrisation"


_INFINITE = {
    Role.EMBEDDING: (0, 1),
    Role.MATRIX: (0, 2),  # 0 where no dimension grows at all, such as a fixed-size projection
    Role.READOUT: (0, 1),
    Role.VECTOR: (0, 1),
    Role.STATE: (0, 1),
}
"""Allowed numbers of infinite dimensions per role: anything else is a delta model that forgot to grow one."""


def scale_sp() -> Scaling:
    """Standard parametrisation: nothing scales."""
    return Scaling()


def scale_mup_adam(role: Role, width: Width) -> Scaling:
    """muP for Adam-like optimizers, relative to the base width m = 1.

    Tensor Programs V (arXiv 2203.03466), Table 8; decay follows the mup package: lr x decay stays constant.
    """
    m = width.fan_in
    match role:
        case Role.MATRIX:
            return Scaling(lr=1 / m, weight_decay=m, source="TP-V Table 8, hidden weights: Adam lr 1/fan_in")
        case Role.READOUT:
            # the model draws std 1/sqrt(fan_in); Table 8 wants variance 1 and an output multiplier 1/fan_in
            return Scaling(init=m**0.5, forward=1 / m, source="TP-V Table 8, output weights: multiplier 1/fan_in")
        case Role.EMBEDDING | Role.VECTOR:
            return Scaling(source="TP-V Table 8, input weights and biases: Adam lr 1")
        case Role.STATE:
            # per-channel tensors of an LTI layer: iid over channels, one infinite dimension
            return Scaling(source="vector-like in width at fixed state size (TP-IVb nonlinearity per channel)")


def check_roles(roles: dict[str, Role], widths: dict[str, Width]) -> None:
    """Raise UserError for every parameter whose growing dimensions do not fit its role."""
    problems = [
        Problem(
            name,
            f"is a {role} parameter with {widths[name].num_infinite} growing dimension(s); "
            f"allowed {' or '.join(map(str, _INFINITE[role]))}",
            "let every width-like dimension of the model follow d_model, in the base and in the delta model",
        )
        for name, role in roles.items()
        if widths[name].num_infinite not in _INFINITE[role]
    ]
    if problems:
        raise UserError(*problems)
