"""DSS: diagonal state spaces without conjugate pairs (arXiv 2203.14343)."""

import math
from collections.abc import Mapping
from typing import final

import torch
from torch import nn

from models import hippo
from models.facts import ParamFacts
from models.inits import constant, copies
from models.ssm.config import DSSConfig
from models.ssm.diagonal import DiagonalSystem
from models.ssm.space import StateSpace
from models.ssm.ssm_tensors import (
    Pair,
    common_facts,
    divide,
    exp_minus_one,
    negative_real,
    pair,
    per_channel,
    skip,
    state,
    step_sizes,
    times,
    zero_order_hold,
)

MOST_GROWTH = 16.0
"""A softmax mode grows by at most e^16 over max_length: already nothing but an echo of the first step."""


@final
class DSS(StateSpace):
    """Parameters: real float32. `A_real` is log(-Re A) in version exp, and Re A itself in version softmax."""

    def __init__(self, config: DSSConfig, d_model: int) -> None:
        super().__init__()
        self.state_shape = (d_model, 2 * config.d_state)
        self.d_model, self.two_sided = d_model, config.bidirectional
        self.max_length = config.max_length
        outputs, num_copies = config.num_kernels, config.n_ssm or d_model
        self.log_dt = nn.Parameter(torch.empty(d_model))
        self.A_real = nn.Parameter(torch.empty(num_copies, config.d_state))
        self.A_imag = nn.Parameter(torch.empty(num_copies, config.d_state))
        self.C = nn.Parameter(torch.empty(d_model, outputs, config.d_state, 2))
        self.D = nn.Parameter(torch.empty(d_model, config.channels))
        self.shapes = tuple(parameter.shape for parameter in self.parameters())

    def discretise(self, values: Mapping[str, torch.Tensor]) -> DiagonalSystem:
        """Discretise: k_l = Re sum_m w_m g_m exp(z_m l), g as in the paper's equations 8 and 9."""
        H, dt = values["log_dt"].shape[0], step_sizes(values["log_dt"])
        a_im = per_channel(values["A_imag"].double(), H)
        if self.max_length is None:
            A = per_channel(negative_real(values["A_real"], "exp"), H), a_im
            z, g = zero_order_hold(A, dt)
        else:
            a_re = per_channel(values["A_real"].double(), H)
            a_re = torch.minimum(a_re, MOST_GROWTH / self.max_length / dt)
            z, g = softmax(a_re, a_im, dt, self.max_length)
        c = times(pair(values["C"].transpose(0, 1)), g)
        return DiagonalSystem(*z, *c, skip(values["D"], values["C"].shape[1]))


def softmax(a_re: torch.Tensor, a_im: torch.Tensor, dt: torch.Tensor, length: int) -> tuple[Pair, Pair]:
    """(z, g), (H, M) each: g = 1 / (A sum_{r < length} exp(z r)), bounded as in appendix A.2 of the paper."""
    z = a_re * dt, a_im * dt
    # of a growing mode the largest term is the last one: sum from there, with -z
    sign = torch.where(a_re > 0, -1.0, 1.0)
    w = sign * z[0], sign * z[1]
    # geometric: sum_{r < n} e^(w r) = (e^(w n) - 1) / (e^w - 1); 1e-7 keeps 1 / den finite where it is zero
    num, den = exp_minus_one(*w), exp_minus_one(w[0] * length, w[1] * length)
    bound = den[0].square() + den[1].square() + 1e-7
    ratio = times(num, (den[0] / bound, -den[1] / bound))
    last = torch.where(a_re > 0, 1 - length, 0)  # exp(z (1 - length)), or 1
    size, angle = (z[0] * last).exp(), z[1] * last
    g = divide(times(ratio, (size * angle.cos(), size * angle.sin())), (a_re, a_im))
    return z, g


def dss_facts(config: DSSConfig) -> dict[str, ParamFacts]:
    """Facts by name: imaginary parts of HiPPO-LegS of twice the size, real parts -1/2."""
    imag = -hippo.legs(2 * config.d_state).eigenvalues.imag
    real = math.log(0.5) if config.version == "exp" else -0.5
    return common_facts(config) | {
        "A_real": state(constant(real), "A"),
        "A_imag": state(copies(imag), "A"),
    }
