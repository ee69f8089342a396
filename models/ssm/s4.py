"""S4: a diagonal plus low rank state matrix Lambda - P^T P^*, Re Lambda < 0 (arXiv 2111.00396, 2202.09729).

Bilinear discretisation by Woodbury's identity; no length is stored and no parameter is ever rewritten.
"""

from collections.abc import Mapping
from typing import final

import torch
from torch import nn

from models import hippo
from models.facts import Init, ParamFacts
from models.inits import copies
from models.ssm.config import S4Config
from models.ssm.low_rank import LowRankSystem, low_rank_footprint
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
)
from models.ssm.system import times_modes

LEAST_DECAY = -1e-4
"""Largest initial Re Lambda: FouT and LegT have none of their own."""


@final
class S4(StateSpace):
    """Parameters: real float32 tensors, complex numbers as pairs in the last dimension."""

    def __init__(self, config: S4Config, d_model: int) -> None:
        super().__init__()
        self.state_shape = (d_model, config.d_state)
        self.d_model, self.two_sided = d_model, config.bidirectional
        self.real_transform = config.real_transform
        pairs, outputs = config.d_state // 2, config.num_kernels
        num_copies = config.n_ssm or d_model
        self.log_dt = nn.Parameter(torch.empty(d_model))
        self.A_log_real = nn.Parameter(torch.empty(num_copies, pairs))
        self.A_imag = nn.Parameter(torch.empty(num_copies, pairs))
        self.P = nn.Parameter(torch.empty(num_copies, config.rank, pairs, 2))
        self.B = nn.Parameter(torch.empty(num_copies, pairs, 2))
        self.C = nn.Parameter(torch.empty(d_model, outputs, pairs, 2))
        self.D = nn.Parameter(torch.empty(d_model, config.channels))
        self.shapes = tuple(parameter.shape for parameter in self.parameters())

    def discretise(self, values: Mapping[str, torch.Tensor]) -> LowRankSystem:
        """Discretise. Real state matrix Lambda - 2 p p^T in [Re x; Im x], since P^* x counts each pair twice.

        G = 1 - dt A/2 = F + dt p p^T with F = 1 - dt Lambda/2 diagonal, so with K = (1 + dt p^T F^-1 p)^-1
        G^-1 = F^-1 - dt F^-1 p K p^T F^-1, and (1 + dt A/2) / (1 - dt A/2) = 2 G^-1 - 1.
        """
        H, dt = values["log_dt"].shape[0], step_sizes(values["log_dt"])
        A = (
            per_channel(negative_real(values["A_log_real"], self.real_transform), H),
            per_channel(values["A_imag"].double(), H),
        )
        z, g = bilinear(A, dt)  # g = dt / F
        g_re, g_im = g[0][..., None], g[1][..., None]
        p_HNR = per_channel(torch.cat(pair(values["P"]), dim=-1), H).transpose(1, 2)
        b_HN1 = per_channel(torch.cat(pair(values["B"]), dim=-1), H)[..., None]
        gp_HNR = times_modes(g_re, g_im, p_HNR)
        # a complex factor is [[r, -i], [i, r]] from the left; from the right its transpose, so the conjugate
        V_HRN = times_modes(g_re, -g_im, p_HNR).transpose(1, 2) / dt[..., None]  # p^T F^-1
        U_HNR = -2 * gp_HNR @ invert(p_HNR.transpose(1, 2) @ gp_HNR)
        b_HN1 = times_modes(g_re, g_im, b_HN1) + U_HNR @ (V_HRN @ b_HN1) * (dt[..., None] / 2)
        c_re, c_im = pair(values["C"].transpose(0, 1))
        c_CHN = 2 * torch.cat((c_re, -c_im), dim=-1)
        return LowRankSystem(*z, U_HNR, V_HRN, b_HN1[..., 0], c_CHN, skip(values["D"], values["C"].shape[1]))


def invert(x_HRR: torch.Tensor) -> torch.Tensor:
    """(1 + x)^-1 of 1 x 1 or 2 x 2 matrices; x has a positive semidefinite symmetric part."""
    # by Cramer's rule, which needs no solver; because of that part of x the determinant is at least 1
    m = torch.eye(x_HRR.shape[-1], dtype=x_HRR.dtype, device=x_HRR.device) + x_HRR
    if m.shape[-1] == 1:
        return m.reciprocal()
    (a, b), (c, d) = m[:, 0].unbind(-1), m[:, 1].unbind(-1)
    adjugate = torch.stack((torch.stack((d, -b), -1), torch.stack((-c, a), -1)), dim=1)
    return adjugate / (a * d - b * c)[:, None, None]


def s4_facts(config: S4Config) -> dict[str, ParamFacts]:
    """Facts by name: Lambda, P and B of the HiPPO measure."""
    kinds = ("legs", "fout") if config.init == "hippo" else (config.init,)
    forms = [{"legs": hippo.legs, "fout": hippo.fout, "legt": hippo.legt}[k](config.d_state) for k in kinds]
    reals = [
        store_real(form.eigenvalues.real.clamp(max=LEAST_DECAY), config.real_transform) for form in forms
    ]
    P = copies(*(torch.view_as_real(form.P) for form in forms))
    return common_facts(config) | {
        "A_log_real": state(copies(*reals), "A"),
        "A_imag": state(copies(*(form.eigenvalues.imag for form in forms)), "A"),
        "P": state(P if config.rank == forms[0].P.shape[0] else _with_second_row(P), "P"),
        "B": state(copies(*(torch.view_as_real(form.B) for form in forms)), "B"),
    }


def _with_second_row(first: Init) -> Init:
    """A second row of small random numbers: a row of zeros would have no gradient."""

    def fill(shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
        one_row = torch.Size((shape[0], 1, *shape[2:]))
        second = 0.1 * torch.randn(one_row, generator=generator)
        return torch.cat((first(one_row, generator), second), dim=1)

    return fill


def s4_footprint(config: S4Config, d_model: int, length: int) -> float:
    """Bytes that discretising and the kernel keep: small float64 tensors, and those of doubling."""
    small = 8.0 * d_model * config.d_state * (11.5 + 6 * config.rank)
    return small + low_rank_footprint(config.d_state, config.rank, d_model, config.num_kernels, length)
