"""SSD, the layer of Mamba-2 (arXiv 2405.21060, section 7).

Letters: B batch, L length, H channels, I inner channels, A heads, E groups of heads that share B and C, F = B
E, P channels per head, N state, K inputs before, X = E N or what a docstring says.

muP: groups grow in number with the width, not in size. Finitely many channels hear each B and C, as they hear
a key of attention, so that their matrix is a hidden one. One B and C for all heads would get a gradient that
does not fall with the width (docs/mup.md).
"""

import math
from typing import final

import torch
from torch import nn

from models.config import SSDConfig
from models.documents import Documents
from models.facts import ParamFacts, Role, prefixed
from models.footprint import REAL, Footprint, Pass
from models.inits import constant, log_of_uniform, softplus_log_uniform, uniform
from models.layers import GAIN, MATRIX, Dropout, Linear
from models.mixer import Mixer, State
from models.precision import as_products_take, autocast_dtype, no_autocast
from models.ssd.gated_norm import GatedNorm
from models.ssd.scan import CHUNK, scan
from models.ssd.short_convolution import ShortConvolution
from models.ssm.ssm_tensors import A_REAL_RANGE, DT_RANGE, state


@final
class SelectiveSpace(nn.Module):
    """The state space itself: one decay rate, one skip and one step bias a head."""

    def __init__(self, num_heads: int, num_groups: int) -> None:
        super().__init__()
        self.num_groups = num_groups
        self.A_log = nn.Parameter(torch.empty(num_heads))
        self.dt_bias = nn.Parameter(torch.empty(num_heads))
        self.D = nn.Parameter(torch.empty(num_heads))

    def forward(
        self,
        x_BLI: torch.Tensor,
        bc_BLX: torch.Tensor,
        dt_BLA: torch.Tensor,
        h_BANP: torch.Tensor,
        product: torch.dtype | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Outputs (B, L, I) in the dtype of h, and the state after. `bc`: B beside C; `dt`: raw; see scan."""
        dtype = h_BANP.dtype
        # far outside of all that is learned, the ranges keep a runaway step from making inf * 0
        dt_BLA = nn.functional.softplus(dt_BLA.to(dtype) + self.dt_bias.to(dtype)).clamp(*DT_RANGE)
        rate_A = self.A_log.to(dtype).clamp(*map(math.log, A_REAL_RANGE)).exp()
        x_BLAP = x_BLI.unflatten(-1, h_BANP.shape[1::2])
        b_BLX, c_BLX = bc_BLX.chunk(2, dim=-1)
        # Groups are so many more sequences to the scan, whose heads have one b and c in common. B=2, E=3 and
        # 12 heads: x (2, L, 12, P) becomes (6, L, 4, P), and b (2, L, 3 N) becomes (6, L, N).
        x_FLAP, z_FLA = self._by_group(x_BLAP * dt_BLA[..., None]), self._by_group(-dt_BLA * rate_A)
        h_FANP = h_BANP.unflatten(1, (self.num_groups, -1)).flatten(0, 1)
        y_FLAP, h_FANP = scan(x_FLAP, z_FLA, self._by_group(b_BLX), self._by_group(c_BLX), h_FANP, product)
        y_BLAP = y_FLAP.unflatten(0, (-1, self.num_groups)).transpose(1, 2).flatten(2, 3)
        return (y_BLAP + self.D.to(dtype)[:, None] * x_BLAP).flatten(2), h_FANP.reshape(h_BANP.shape)

    def _by_group(self, x_BLX: torch.Tensor) -> torch.Tensor:
        """(B, L, E x, ...) -> (B E, L, x, ...)."""
        return x_BLX.unflatten(2, (self.num_groups, -1)).transpose(1, 2).flatten(0, 1)


@final
class SSD(Mixer):
    """output(norm(space(conv(x)) * silu(gate))). The state is (last inputs of both convolutions, h)."""

    def __init__(self, config: SSDConfig, d_model: int, dropout: Dropout) -> None:
        super().__init__()
        self.d_inner, self.d_head = config.expand * d_model, config.d_head
        self.d_state, self.num_taps = config.d_state, config.d_conv
        self.num_heads = self.d_inner // config.d_head
        num_groups = self.num_heads // config.heads_per_group
        self.d_BC = 2 * num_groups * config.d_state
        self.input = Linear(d_model, self.d_inner, bias=False)
        self.gate = Linear(d_model, self.d_inner, bias=False)
        self.BC = Linear(d_model, self.d_BC, bias=False)
        self.dt = Linear(d_model, self.num_heads, bias=False)
        self.input_conv = ShortConvolution(self.d_inner, config.d_conv)
        self.BC_conv = ShortConvolution(self.d_BC, config.d_conv)
        self.space = SelectiveSpace(self.num_heads, num_groups)
        self.inner_norm = GatedNorm(self.d_inner)
        self.dropout = dropout
        self.output = Linear(self.d_inner, d_model, bias=False)

    def forward(
        self, x_BLH: torch.Tensor, mask_BL: torch.Tensor | None = None, documents: Documents | None = None
    ) -> torch.Tensor:
        if documents is None:
            return self.advance(x_BLH, self.initial_state(x_BLH.shape[0], x_BLH.device))[0]
        projected = self._project(x_BLH)
        sizes = [self.d_inner, self.d_BC, self.num_heads]

        def mix(all_DTX: torch.Tensor) -> torch.Tensor:
            fresh = self.initial_state(all_DTX.shape[0], all_DTX.device)
            input_DTI, bc_DTX, dt_DTA = all_DTX.split(sizes, dim=-1)
            return self._run_space(input_DTI, bc_DTX, dt_DTA, fresh, product)[0]

        product = autocast_dtype(x_BLH)
        with no_autocast(x_BLH):
            y_BLI = documents.apart(mix, torch.cat([projected[0], *projected[2:]], dim=-1))
        return self._finish(y_BLI, projected[1], x_BLH)

    def initial_state(self, batch_size: int, device: torch.device) -> State:
        dtype = torch.promote_types(self.space.A_log.dtype, torch.float32)
        sizes = (
            (self.num_taps - 1, self.d_inner),
            (self.num_taps - 1, self.d_BC),
            (self.num_heads, self.d_state, self.d_head),
        )
        inputs, bc, h = (torch.zeros(batch_size, *size, dtype=dtype, device=device) for size in sizes)
        return inputs, bc, h

    def advance(self, x_BLH: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        input_BLI, gate_BLI, bc_BLX, dt_BLA = self._project(x_BLH)
        product = autocast_dtype(x_BLH)
        with no_autocast(x_BLH):
            y_BLI, state = self._run_space(input_BLI, bc_BLX, dt_BLA, state, product)
        return self._finish(y_BLI, gate_BLI, x_BLH), state

    def _project(self, x_BLH: torch.Tensor) -> list[torch.Tensor]:
        """Input and gate (B, L, I), B beside C, and steps: the input is rounded once for all four."""
        x_BLH = as_products_take(x_BLH)
        return [part(x_BLH) for part in (self.input, self.gate, self.BC, self.dt)]

    def _run_space(
        self,
        input_BLI: torch.Tensor,
        bc_BLX: torch.Tensor,
        dt_BLA: torch.Tensor,
        state: State,
        product: torch.dtype | None,
    ) -> tuple[torch.Tensor, State]:
        """From what the matrices make of the input to what the state space does, and the state after."""
        input_BLI, inputs = self.input_conv(input_BLI, state[0])
        bc_BLX, bcs = self.BC_conv(bc_BLX, state[1])
        y_BLI, h_BANP = self.space(input_BLI, bc_BLX, dt_BLA, state[2], product)
        return y_BLI, (inputs, bcs, h_BANP)

    def _finish(self, y_BLI: torch.Tensor, gate_BLI: torch.Tensor, x_BLH: torch.Tensor) -> torch.Tensor:
        with no_autocast(x_BLH):
            y_BLI = self.inner_norm(y_BLI.to(gate_BLI.dtype), gate_BLI)
        output: torch.Tensor = self.output(self.dropout(y_BLI.to(x_BLH.dtype)))
        return output


def ssd_facts(config: SSDConfig) -> dict[str, ParamFacts]:
    """Facts by name. A uniform in [1, 16], dt log-uniform, D = 1, as in the paper's code."""
    taps = ParamFacts(
        role=Role.VECTOR, init=uniform(-(config.d_conv**-0.5), config.d_conv**-0.5), decay=False
    )
    convolution = {"weight": taps, "bias": taps}
    return {
        **{f"{part}.weight": MATRIX for part in ("input", "gate", "BC", "dt", "output")},
        **prefixed("input_conv.", convolution),
        **prefixed("BC_conv.", convolution),
        "space.A_log": state(log_of_uniform(1.0, 16.0), "A"),
        "space.dt_bias": state(softplus_log_uniform(config.dt_min, config.dt_max), "dt"),
        "space.D": state(constant(1.0), "D"),
        "inner_norm.weight": GAIN,
    }


def ssd_flops(config: SSDConfig, d_model: int, seq_len: int) -> float:
    """Forward FLOPs per token (arXiv 2405.21060, section 6.3): two per weight and product.

    Within a chunk of T a position has T scores of N in each of E groups, and a mean of T values in each of I
    channels; it adds to the state, and reads it, at N I each. Then convolutions and matrices.
    """
    d_inner, chunk = config.expand * d_model, min(CHUNK, seq_len)
    num_heads = d_inner // config.d_head
    d_keys = num_heads // config.heads_per_group * config.d_state
    inside = 2.0 * chunk * (d_keys + d_inner)
    states = 4.0 * config.d_state * d_inner
    convolutions = 2.0 * config.d_conv * (d_inner + 2 * d_keys)
    matrices = 2.0 * d_model * (3 * d_inner + 2 * d_keys + num_heads)
    return inside + states + convolutions + matrices


def ssd_footprint(config: SSDConfig, d_model: int, step: Pass, *, dropout: bool) -> Footprint:
    """Seven tensors of all inner channels, scores within chunks, and a state for each chunk."""
    d_inner, chunk = config.expand * d_model, min(CHUNK, step.length)
    num_heads = d_inner // config.d_head
    d_keys = num_heads // config.heads_per_group * config.d_state
    n, chunks = step.positions, step.sequences * -(-step.length // chunk)
    inner = REAL * n * d_inner
    keys = REAL * n * 2 * d_keys
    inside = REAL * n * chunk * (num_heads // config.heads_per_group)
    states = REAL * d_inner * config.d_state * (2 * chunks + step.sequences)
    inputs = step.product * n * d_model
    matrices = d_model * (3 * d_inner + 2 * d_keys + num_heads)
    # What is kept as it came out of a product, and goes into the next one.
    rounded = inside + 7 * inner + 2 * keys + REAL * d_inner * config.d_state * chunks
    return Footprint(
        saved=7 * inner + inner * step.product / REAL + dropout * inner + 2 * keys + inside + states + inputs
        + 8 * REAL * n * num_heads + step.rounded(matrices) - (rounded / 2 if step.half else 0.0),
        working=REAL * n * d_model + 6 * inner,
    )  # fmt: skip
