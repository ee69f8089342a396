"""S4D: a diagonal state-space layer, as a convolution in training (arXiv 2206.11893).

Letters: B batch, L length, H channels, G independent copies of (A, B), M = N/2 stored conjugate pairs.
Real arithmetic on real parameters throughout, so torch.compile, meta tensors and casts just work.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn

from models import hippo
from models.config import S4DConfig
from models.convolution import causal_convolution
from models.facts import Init, ParamFacts, Role
from models.inits import log_uniform, normal, rows
from models.layers import Linear, linear_facts

# dt = exp(log_dt) and Re A = -exp(A_log_real) are confined to these ranges. Far outside of everything that is
# initialised or learned, they keep a runaway step from making inf * 0 (state-spaces/s4 issue 138).
DT_RANGE = (1e-6, 1e1)
A_REAL_RANGE = (1e-4, 1e4)


@dataclass(frozen=True, slots=True)
class Modes:
    """A discretised diagonal system, k_l = 2 Re sum_m c_m exp(z_m l), as real float64 pairs, each (H, M)."""

    z_re: torch.Tensor
    z_im: torch.Tensor
    c_re: torch.Tensor
    c_im: torch.Tensor


class S4DSSM(nn.Module):
    """The state-space part: every parameter that must stay float32. Input and output float32 (B, L, H)."""

    def __init__(self, config: S4DConfig, d_model: int) -> None:
        super().__init__()
        pairs = config.d_state // 2
        copies = config.n_ssm or d_model
        self.log_dt = nn.Parameter(torch.empty(d_model))
        self.A_log_real = nn.Parameter(torch.empty(copies, pairs))
        self.A_imag = nn.Parameter(torch.empty(copies, pairs))
        self.B = nn.Parameter(torch.empty(copies, pairs, 2))
        self.C = nn.Parameter(torch.empty(d_model, pairs, 2))
        self.D = nn.Parameter(torch.empty(d_model))

    def modes(self) -> Modes:
        """Discretise by zero-order hold. Few numbers, in float64: the kernel multiplies their errors by L."""
        repeats = self.log_dt.shape[0] // self.A_imag.shape[0]
        dt_H1 = self.log_dt.double().clamp(*map(math.log, DT_RANGE)).exp()[:, None]
        a_re = -self.A_log_real.double().clamp(*map(math.log, A_REAL_RANGE)).exp()
        a_re_HM = a_re.repeat_interleave(repeats, dim=0)
        a_im_HM = self.A_imag.double().repeat_interleave(repeats, dim=0)
        b_re_HM, b_im_HM = self.B.double().repeat_interleave(repeats, dim=0).unbind(-1)
        c_re_HM, c_im_HM = self.C.double().unbind(-1)
        x, y = a_re_HM * dt_H1, a_im_HM * dt_H1
        # (exp(x + iy) - 1) / A, with expm1 so that small steps keep their digits
        grow, half = torch.expm1(x), torch.sin(y / 2)
        e_re = grow * torch.cos(y) - 2 * half * half
        e_im = (grow + 1) * torch.sin(y)
        norm = a_re_HM.square() + a_im_HM.square()
        h_re, h_im = (e_re * a_re_HM + e_im * a_im_HM) / norm, (e_im * a_re_HM - e_re * a_im_HM) / norm
        bh_re, bh_im = b_re_HM * h_re - b_im_HM * h_im, b_re_HM * h_im + b_im_HM * h_re
        return Modes(x, y, c_re_HM * bh_re - c_im_HM * bh_im, c_re_HM * bh_im + c_im_HM * bh_re)

    def kernel(self, length: int) -> torch.Tensor:
        """The first `length` entries of the impulse response, without D: (H, L) in at least float32."""
        return vandermonde_kernel(self.modes(), length, torch.promote_types(self.C.dtype, torch.float32))

    def forward(self, u_BLH: torch.Tensor) -> torch.Tensor:
        with torch.autocast(u_BLH.device.type, enabled=False):
            k_HL = self.kernel(u_BLH.shape[1])
            u_BHL = u_BLH.to(k_HL.dtype).transpose(1, 2)
            y_BHL = causal_convolution(u_BHL, k_HL) + self.D.to(k_HL.dtype)[:, None] * u_BHL
        return y_BHL.transpose(1, 2)


def powers(modes: Modes, steps: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Real and imaginary parts of exp(z l) for each l in `steps`: (H, M, len(steps)).

    Angles are reduced to one turn in float64: a float32 product would be off by 6e-8 * angle.
    """
    angle = modes.z_im[..., None] * steps
    angle = (angle - 2 * math.pi * torch.round(angle.detach() / (2 * math.pi))).to(dtype)
    size = (modes.z_re[..., None] * steps).to(dtype).exp()
    return size * angle.cos(), size * angle.sin()


def vandermonde_kernel(modes: Modes, length: int, dtype: torch.dtype) -> torch.Tensor:
    """k[l] = 2 Re sum_m c_m exp(z_m l) with l = i S + j: S + L/S exponentials a mode and one real product.

    The direct way materialises H x M x L exponentials; with S near sqrt(L) this one needs H x M x 2 sqrt(L).
    """
    inner = 1 << ((length - 1).bit_length() + 1) // 2  # S, a power of two near sqrt(L)
    outer = -(-length // inner)
    step = torch.arange(max(inner, outer), dtype=torch.float64, device=modes.z_re.device)
    e_re, e_im = powers(modes, step[:inner], dtype)
    p_re, p_im = powers(modes, step[:outer] * inner, dtype)
    c_re, c_im = (2 * modes.c_re).to(dtype)[..., None], (2 * modes.c_im).to(dtype)[..., None]
    left = torch.cat((c_re * p_re - c_im * p_im, -(c_re * p_im + c_im * p_re)), dim=1)  # (H, 2M, L/S)
    right = torch.cat((e_re, e_im), dim=1)  # (H, 2M, S)
    return torch.bmm(left.transpose(1, 2), right).flatten(1)[:, :length]


class S4D(nn.Module):
    """Mixer: state space, GELU, and a position-wise output map (GLU, GELU or none)."""

    def __init__(self, config: S4DConfig, d_model: int) -> None:
        super().__init__()
        self.final_act = config.final_act
        self.ssm = S4DSSM(config, d_model)
        self.output = Linear(d_model, 2 * d_model if config.final_act == "glu" else d_model)

    def forward(self, x_BLH: torch.Tensor) -> torch.Tensor:
        out = self.output(nn.functional.gelu(self.ssm(x_BLH)).to(x_BLH.dtype))
        if self.final_act == "glu":
            return nn.functional.glu(out, dim=-1)
        return nn.functional.gelu(out) if self.final_act == "gelu" else out


def eigenvalues(config: S4DConfig) -> torch.Tensor:
    """Initial Lambda, complex128 (M)."""
    if config.init == "legs":
        return hippo.legs_normal_plus_low_rank(config.d_state).eigenvalues
    return {"lin": hippo.lin, "inv": hippo.inv}[config.init](config.d_state)


def _state(init: Init, tensor: str) -> ParamFacts:
    return ParamFacts(role=Role.STATE, init=init, decay=False, ssm=tensor)


def s4d_facts(config: S4DConfig) -> dict[str, ParamFacts]:
    """Facts by name. Initial values as in the paper: B = 1, C complex standard normal, D standard normal."""
    A = eigenvalues(config)
    one = torch.tensor([1.0, 0.0])
    return {
        "ssm.log_dt": _state(log_uniform(config.dt_min, config.dt_max), "dt"),
        "ssm.A_log_real": _state(rows(torch.log(-A.real)), "A"),
        "ssm.A_imag": _state(rows(A.imag), "A"),
        "ssm.B": _state(rows(one), "B"),
        "ssm.C": _state(normal(math.sqrt(0.5)), "C"),
        "ssm.D": _state(normal(1.0), "D"),
    } | linear_facts("output")


def s4d_flops(config: S4DConfig, d_model: int, seq_len: int) -> float:
    """Forward FLOPs per token: two real FFTs of length 2L a channel, their product, and the output matrix.

    A real FFT of n points counts 2.5 n log2 n (the convention of fftw.org/speed). Kernels, shared by a batch, are
    not counted.
    """
    convolution = 10 * math.log2(2 * seq_len) + 6
    outputs = 2 * d_model if config.final_act == "glu" else d_model
    return d_model * convolution + 2 * d_model * outputs
