"""The mixer around a state space: activation, dropout, gate, and a position-wise output map."""

import math
from typing import final

import torch
from torch import nn

from models.convolution import fft_length
from models.documents import Documents
from models.facts import ParamFacts, prefixed
from models.footprint import REAL, Footprint, Pass
from models.layers import Dropout, Linear, linear_facts
from models.mixer import Mixer, State, Step
from models.ssm.config import SSMSection
from models.ssm.output import gelu_linear_glu, linear_channels_first
from models.ssm.space import StateSpace, convolve
from models.ssm.system import Recurrence


@final
class SSMMixer(Mixer):
    """output(gelu(ssm(x)) * gate). Channels come first from the state space up to the output matrix."""

    def __init__(
        self, config: SSMSection, d_model: int, ssm: StateSpace, dropout: Dropout, multiplier: float = 1.0
    ) -> None:
        super().__init__()
        self.multiplier = multiplier
        d_inner = config.channels * d_model
        self.final_act, self.bidirectional = config.final_act, config.bidirectional
        self.ssm = ssm
        self.dropout = dropout
        self.gate = Linear(d_model, d_inner) if config.gate else None
        self.output = Linear(d_inner, 2 * d_model if config.final_act == "glu" else d_model)

    def forward(
        self,
        x_BLH: torch.Tensor,
        mask_BL: torch.Tensor | None = None,
        documents: Documents | None = None,
        kernel_CHL: torch.Tensor | None = None,
    ) -> torch.Tensor:
        def convolved(x_BLH: torch.Tensor) -> torch.Tensor:
            if kernel_CHL is None:
                return self.ssm(x_BLH)
            return convolve(x_BLH, kernel_CHL, self.bidirectional)

        if documents is not None:
            y_BLX = documents.apart(lambda x_DTH: convolved(x_DTH).transpose(1, 2), x_BLH)
            return self._mix(y_BLX.transpose(1, 2), x_BLH)
        if self.bidirectional and mask_BL is not None:
            x_BLH = x_BLH * mask_BL[..., None]
        return self._mix(convolved(x_BLH), x_BLH)

    @property
    def kernel_source(self) -> StateSpace:
        """See Mixer."""
        return self.ssm

    def initial_state(self, batch_size: int, device: torch.device) -> State:
        if self.bidirectional:
            raise ValueError("bidirectional is true: a layer that looks ahead has no state to carry")
        dtype = torch.promote_types(self.ssm.D.dtype, torch.float32)
        return (torch.zeros(batch_size, *self.ssm.state_shape, dtype=dtype, device=device),)

    def advance(self, x_BLH: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        y_BXL, x_BHN = self.ssm(x_BLH, *state)
        return self._mix(y_BXL, x_BLH), (x_BHN,)

    def recurrence(self) -> Recurrence:
        """The state space for one token at a time."""
        return self.ssm.system().recurrence()

    def stepper(self) -> Step:
        # to discretise costs more than a step does: once here, not once a token
        recurrence = self.recurrence()

        def step(x_BH: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
            y_BCH, x_BHN = recurrence.step(x_BH, *state)
            return self._mix(y_BCH.flatten(1)[..., None], x_BH[:, None])[:, 0], (x_BHN,)

        return step

    def _mix(self, y_BXL: torch.Tensor, x_BLH: torch.Tensor) -> torch.Tensor:
        # C=1, H=4, L=8: y (B, 4, 8) stays channels first, as the FFT gives it, up to the output matrix, which
        # reads it transposed. Only the gate needs (B, L, X), for its product with a map of x.
        y_BXL, glu = y_BXL.to(x_BLH.dtype), self.final_act == "glu"
        if self.multiplier != 1.0:
            y_BXL = self.multiplier * y_BXL
        if glu and self.gate is None and not self.dropout.acts:
            return self.output(y_BXL, gelu_linear_glu)
        activated_BXL = self.dropout(nn.functional.gelu(y_BXL), length_dim=2)
        if self.gate is None:
            out = self.output(activated_BXL, linear_channels_first)
        else:
            out = self.output(activated_BXL.transpose(1, 2) * nn.functional.silu(self.gate(x_BLH)))
        if glu:
            return nn.functional.glu(out, dim=-1)
        return nn.functional.gelu(out) if self.final_act == "gelu" else out


def mixer_facts(config: SSMSection, ssm: dict[str, ParamFacts]) -> dict[str, ParamFacts]:
    """Facts by name, given those of the state space."""
    gate = linear_facts("gate") if config.gate else {}
    return prefixed("ssm.", ssm) | gate | linear_facts("output")


def mixer_flops(config: SSMSection, d_model: int, seq_len: int) -> float:
    """Forward FLOPs per token: real FFTs of length 2L a channel, their products, and the matrices.

    One transform in and one out per output, 2.5 n log2 n each (the convention of fftw.org/speed), 6 for a
    complex product. Kernels are shared by a batch and not counted: see LayerKind.kernel_flops.
    """
    size = 2 * seq_len
    transform = 2.5 * size * math.log2(size) / seq_len
    convolution = (1 + config.channels) * transform + config.channels * 6
    return d_model * convolution + mixer_matrix_flops(config, d_model)


def mixer_matrix_flops(config: SSMSection, d_model: int) -> float:
    """The part of the matrices: two per weight."""
    d_output = 2 * d_model if config.final_act == "glu" else d_model
    return 2.0 * config.channels * d_model * (d_output + (d_model if config.gate else 0))


def mixer_footprint(config: SSMSection, d_model: int, step: Pass, *, dropout: bool) -> Footprint:
    """Input, convolved, activated, and the output map; kernels aside, but where two sides are made one."""
    width, inner = REAL * step.positions * d_model, REAL * step.positions * config.channels * d_model
    half = step.product / REAL
    taps = fft_length(2 * step.length) if config.bidirectional else 0
    saved = float(width + inner + REAL * config.channels * taps * d_model)
    glu = config.final_act == "glu"
    wide = half * width * {"glu": 2, "gelu": 1, "id": 0}[config.final_act]
    if not (glu and not config.gate and not dropout and not step.half):
        saved += half * inner + dropout * inner  # gelu(y), and the mask
    if config.gate:
        saved += 2 * half * inner + inner + step.half * half * width
    weights = mixer_matrix_flops(config, d_model) / 2  # two each
    # The convolution's: incoming gradient, those of its output and input, both signals with channels first.
    return Footprint(
        saved=saved + wide + step.rounded(weights), working=max(3 * width + 2 * inner - wide, width + inner)
    )
