"""S4D: a diagonal state matrix with negative real parts (arXiv 2206.11893)."""

from collections.abc import Mapping
from typing import final

import torch
from torch import nn

from models import hippo
from models.facts import ParamFacts
from models.inits import copies
from models.ssm.config import S4DConfig
from models.ssm.diagonal import DiagonalSystem
from models.ssm.space import StateSpace
from models.ssm.ssm_tensors import (
    bilinear,
    common_facts,
    negative_real,
    pair,
    per_channel,
    skip,
    state,
    step_sizes,
    store_real,
    times,
    zero_order_hold,
)


@final
class S4D(StateSpace):
    """Parameters: real float32 tensors, complex numbers as pairs in the last dimension."""

    def __init__(self, config: S4DConfig, d_model: int) -> None:
        super().__init__()
        self.state_shape = (d_model, config.d_state)
        self.d_model, self.two_sided = d_model, config.bidirectional
        self.disc, self.real_transform = config.disc, config.real_transform
        pairs, outputs = config.d_state // 2, config.num_kernels
        num_copies = config.n_ssm or d_model
        self.log_dt = nn.Parameter(torch.empty(d_model))
        self.A_log_real = nn.Parameter(torch.empty(num_copies, pairs))
        self.A_imag = nn.Parameter(torch.empty(num_copies, pairs))
        self.B = nn.Parameter(torch.empty(num_copies, pairs, 2))
        self.C = nn.Parameter(torch.empty(d_model, outputs, pairs, 2))
        self.D = nn.Parameter(torch.empty(d_model, config.channels))
        self.shapes = tuple(parameter.shape for parameter in self.parameters())

    def discretise(self, values: Mapping[str, torch.Tensor]) -> DiagonalSystem:
        """Discretise. Few numbers, in float64, because a kernel multiplies their errors by its length."""
        H = values["log_dt"].shape[0]
        A = negative_real(values["A_log_real"], self.real_transform), values["A_imag"].double()
        discretise = zero_order_hold if self.disc == "zoh" else bilinear
        z, g = discretise((per_channel(A[0], H), per_channel(A[1], H)), step_sizes(values["log_dt"]))
        b_re, b_im = pair(values["B"])
        c = times(pair(values["C"].transpose(0, 1)), times((per_channel(b_re, H), per_channel(b_im, H)), g))
        return DiagonalSystem(*z, 2 * c[0], 2 * c[1], skip(values["D"], values["C"].shape[1]))


def eigenvalues(init: str, d_state: int) -> torch.Tensor:
    """Initial Lambda, complex128 (M)."""
    if init == "legs":
        return hippo.legs(d_state).eigenvalues
    return {"lin": hippo.lin, "inv": hippo.inv, "real": hippo.real}[init](d_state)


def s4d_facts(config: S4DConfig) -> dict[str, ParamFacts]:
    """Facts by name. B = 1, as in the paper."""
    kinds = ("inv", "lin") if config.init == "diag" else (config.init,)
    starts = [eigenvalues(kind, config.d_state) for kind in kinds]
    return common_facts(config) | {
        "A_log_real": state(copies(*(store_real(A.real, config.real_transform) for A in starts)), "A"),
        "A_imag": state(copies(*(A.imag for A in starts)), "A"),
        "B": state(copies(torch.tensor([1.0, 0.0])), "B"),
    }
