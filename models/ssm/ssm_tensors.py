"""What the parametrisations share: safe transforms, discretisation in real pairs, facts.

Letters: H channels, C kernels per channel, M modes. A, z and g of a system are pairs of (H, M), dt is (H, 1).

DT_RANGE and A_REAL_RANGE confine dt = exp(log_dt) and -Re A. Far outside of everything that is initialised or
learned, they keep a runaway step from making inf * 0 (state-spaces/s4 issue 138).
"""

import math

import torch

from models.facts import Init, ParamFacts, Role
from models.inits import log_uniform, normal
from models.ssm.config import RealTransform, SSMSection

DT_RANGE = (1e-6, 1e1)
A_REAL_RANGE = (1e-5, 1e4)
_LEAST_RELU = 1e-4

Pair = tuple[torch.Tensor, torch.Tensor]
"""Real and imaginary parts."""


def times(a: Pair, b: Pair) -> Pair:
    """Complex product."""
    return a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]


def divide(a: Pair, b: Pair) -> Pair:
    """Complex quotient."""
    norm = b[0].square() + b[1].square()
    return (a[0] * b[0] + a[1] * b[1]) / norm, (a[1] * b[0] - a[0] * b[1]) / norm


def pair(stored: torch.Tensor) -> Pair:
    """A parameter (..., 2) as float64 real and imaginary parts."""
    re, im = stored.double().unbind(-1)
    return re, im


def step_sizes(log_dt: torch.Tensor) -> torch.Tensor:
    """dt (H, 1), float64."""
    return log_dt.double().clamp(*map(math.log, DT_RANGE)).exp()[:, None]


def negative_real(stored: torch.Tensor, transform: RealTransform) -> torch.Tensor:
    """Re A of what is stored, float64: (n_ssm, M)."""
    a = stored.double()
    match transform:
        case "exp":
            return -a.clamp(*map(math.log, A_REAL_RANGE)).exp()
        case "softplus":
            rate = torch.nn.functional.softplus(a)
        case "relu":
            rate = torch.relu(a) + _LEAST_RELU
        case "sigmoid":
            rate = torch.sigmoid(a)
    return -rate.clamp(*A_REAL_RANGE)


def store_real(A_real: torch.Tensor, transform: RealTransform) -> torch.Tensor:
    """The inverse: what to store for Re A < 0, float64."""
    rate = -A_real.double()
    match transform:
        case "exp":
            return torch.log(rate)
        case "softplus":
            return rate + torch.log(-torch.expm1(-rate))
        case "relu":
            return (rate - _LEAST_RELU).clamp(min=_LEAST_RELU)  # above zero, where its gradient would end
        case "sigmoid":
            return torch.logit(rate)


def per_channel(x: torch.Tensor, d_model: int) -> torch.Tensor:
    """Give each group of channels its copy: (n_ssm, ...) -> (H, ...)."""
    return x.repeat_interleave(d_model // x.shape[0], dim=0)


def skip(D: torch.Tensor, num_kernels: int) -> torch.Tensor:
    """D, in at least float32, with zeros for the kernels that look ahead: (C, H)."""
    D = D.to(torch.promote_types(D.dtype, torch.float32)).t()
    return torch.cat((D, D.new_zeros(num_kernels - D.shape[0], D.shape[1])))


def exp_minus_one(x: torch.Tensor, y: torch.Tensor) -> Pair:
    """exp(x + iy) - 1 elementwise, keeping its digits near zero."""
    # e^x cos y - 1 = (e^x - 1) cos y + (cos y - 1), and cos y - 1 = -2 sin^2(y/2) has no difference left
    grow, half = torch.expm1(x), torch.sin(y / 2)
    return grow * torch.cos(y) - 2 * half * half, (grow + 1) * torch.sin(y)


def zero_order_hold(A: Pair, dt: torch.Tensor) -> tuple[Pair, Pair]:
    """(z, g): decay exp(z) and input factor g = (exp(z) - 1) / A (arXiv 2206.11893, eq. 6)."""
    z = A[0] * dt, A[1] * dt
    return z, divide(exp_minus_one(*z), A)


def bilinear(A: Pair, dt: torch.Tensor) -> tuple[Pair, Pair]:
    """(z, g): decay exp(z) = (1 + dt A/2) / (1 - dt A/2) and input factor g = dt / (1 - dt A/2)."""
    x, y = A[0] * dt / 2, A[1] * dt / 2
    norm = (1 - x).square() + y.square()
    # |1 + a|^2 / |1 - a|^2 = 1 + 4 x / |1 - a|^2; kept off zero, whose logarithm is infinite
    z_re = 0.5 * torch.log1p((4 * x / norm).clamp(min=-1 + 1e-12))
    # the angle of the numerator minus that of the denominator, whose imaginary part is -y
    z_im = torch.atan2(y, 1 + x) + torch.atan2(y, 1 - x)
    return (z_re, z_im), (dt * (1 - x) / norm, dt * y / norm)


def state(init: Init, tensor: str) -> ParamFacts:
    """Facts of a state-space tensor: vector-like in width, no decay, rates by the name of the tensor."""
    return ParamFacts(role=Role.STATE, init=init, decay=False, ssm=tensor)


def common_facts(config: SSMSection) -> dict[str, ParamFacts]:
    """Facts of log_dt, C (complex standard normal) and D (standard normal)."""
    return {
        "log_dt": state(log_uniform(config.dt_min, config.dt_max), "dt"),
        "C": state(normal(math.sqrt(0.5)), "C"),
        "D": state(normal(1.0), "D"),
    }
