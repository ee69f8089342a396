"""Linear attention with momentum (Momentum Transformer, arXiv 2208.00579).

s_i = s_{i-1} - gamma m_i, m_i = beta m_{i-1} - phi(k_i) v_i^T, phi = elu + 1, divided by q sum phi(k).
Positions d apart thus weigh gamma (1 - beta^(d+1)) / (1 - beta): a difference of two exponentials, so chunks
of positions need two running sums, with decays 1 and beta.

Letters: B batch, L length, H channels, A heads, K channels per head, T positions of a chunk, G chunks.
"""

from typing import final

import torch
from torch import nn

from models.config import MomentumConfig
from models.documents import Documents
from models.facts import ParamFacts
from models.footprint import REAL, Footprint, Pass
from models.layers import Linear, linear_facts
from models.mixer import Mixer, State
from models.precision import no_autocast

CHUNK = 64
EPSILON = 1e-6


@final
class MomentumAttention(Mixer):
    """The state is (sum phi(k) v^T, the same sum decayed, sum phi(k)), all float32."""

    def __init__(self, config: MomentumConfig, d_model: int) -> None:
        super().__init__()
        self.num_heads, self.d_head = d_model // config.d_head, config.d_head
        self.momentum, self.step_size = config.momentum, config.step_size
        self.query, self.key, self.value, self.output = (Linear(d_model, d_model) for _ in range(4))

    def forward(
        self, x_BLH: torch.Tensor, mask_BL: torch.Tensor | None = None, documents: Documents | None = None
    ) -> torch.Tensor:
        return self.advance(x_BLH, self.initial_state(x_BLH.shape[0], x_BLH.device))[0]

    def initial_state(self, batch_size: int, device: torch.device) -> State:
        dtype = torch.promote_types(self.key.weight.dtype, torch.float32)
        keys = torch.zeros(batch_size, self.num_heads, self.d_head, dtype=dtype, device=device)
        sums = keys[..., None].expand(-1, -1, -1, self.d_head)
        return sums, sums, keys

    def advance(self, x_BLH: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        with no_autocast(x_BLH):
            out, state = self._chunks(self._project(x_BLH), state)
        return self.output(out.transpose(1, 2).flatten(2).to(x_BLH.dtype)), state

    def _project(self, x_BLH: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """phi(queries), phi(keys), values (B, A, L, K), at least float32."""
        q, k, v = (
            part(x_BLH).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        dtype = torch.promote_types(q.dtype, torch.float32)
        return nn.functional.elu(q.to(dtype)) + 1, nn.functional.elu(k.to(dtype)) + 1, v.to(dtype)

    def _chunks(self, projected: tuple[torch.Tensor, ...], state: State) -> tuple[torch.Tensor, State]:
        """Outputs (B, A, L, K) and the state after: attention within chunks, sums between them."""
        q, k, v = projected
        length, beta = q.shape[2], self.momentum
        size = min(CHUNK, length)
        pad = -length % size
        # B=2, A=3, L=70, K=4: T=64, G=2, so 58 positions of padding; q (2, 3, 2, 64, 4), plain and decayed
        # (2, 3, 3, 4, 4), one more than chunks. The outputs of the padding are cut off at the end.
        # Padding in front, of zero keys: it adds nothing, and the decayed sum ends on the last position
        q, k, v = (nn.functional.pad(x, (0, 0, pad, 0)).unflatten(2, (-1, size)) for x in (q, k, v))
        place_T = torch.arange(size, dtype=q.dtype, device=q.device)
        plain, decayed, keys = _before_chunks(k, v, state, beta, pad)
        apart_TT = place_T[:, None] - place_T
        weights_TT = torch.where(apart_TT >= 0, 1 - beta ** (apart_TT.clamp(min=0) + 1), 0)
        # one matrix of weights for all chunks, since it depends on the distance alone
        inside = (q @ k.transpose(-1, -2) * weights_TT) @ v
        # from the sums before a chunk, d + 1 = place + 2; the first chunk begins after the padding
        place_GT = torch.cat(((place_T - pad).clamp(min=0)[None], place_T.expand(q.shape[2] - 1, -1)))
        fades_GT1 = beta ** (place_GT[..., None] + 2)
        out = inside + q @ plain[:, :, :-1] - fades_GT1 * (q @ decayed[:, :, :-1])
        # phi is positive: only in the padding, where every key is zero, is this zero without epsilon
        normaliser = (q * (keys[:, :, :-1, None] + k.cumsum(3))).sum(-1, keepdim=True)
        out = self.step_size / (1 - beta) * out / (normaliser + EPSILON)
        return out.flatten(2, 3)[:, :, pad:], (plain[:, :, -1], decayed[:, :, -1], keys[:, :, -1])


def _before_chunks(
    k: torch.Tensor, v: torch.Tensor, state: State, beta: float, pad: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sums before each chunk and after the last: sum phi(k) v^T, sum beta^age phi(k) v^T, sum phi(k)."""
    size, num_chunks = k.shape[3], k.shape[2]
    ages_T1 = torch.arange(size - 1, -1, -1, dtype=k.dtype, device=k.device)[:, None]
    added = k.transpose(-1, -2) @ v  # (B, A, G, K, K)
    faded = (k * beta**ages_T1).transpose(-1, -2) @ v
    plain = torch.cat((state[0][:, :, None], added), dim=2).cumsum(2)
    keys = torch.cat((state[2][:, :, None], k.sum(3)), dim=2).cumsum(2)
    # A scan over chunks as one product: G is small (L / 64), and a loop would launch G kernels one by one.
    # decayed[g] = beta^(size g - pad) state + sum_{h < g} beta^(size (g - 1 - h)) faded[h]
    chunk_G = torch.arange(num_chunks + 1, dtype=k.dtype, device=k.device)
    apart_GG = chunk_G[:, None] - 1 - chunk_G[:-1]
    decays_GG = torch.where(apart_GG >= 0, beta ** (size * apart_GG.clamp(min=0)), 0)
    start_G = beta ** (size * chunk_G - pad).clamp(min=0)
    decayed = torch.einsum("gh,bahij->bagij", decays_GG, faded)
    decayed = decayed + start_G[:, None, None] * state[1][:, :, None]
    return plain, decayed, keys


def momentum_facts() -> dict[str, ParamFacts]:
    """Facts by name."""
    parts = ("query", "key", "value", "output")
    return {name: fact for part in parts for name, fact in linear_facts(part).items()}


def momentum_flops(config: MomentumConfig, d_model: int, seq_len: int) -> float:
    """Forward FLOPs per token: 8 H^2 of matrices (arXiv 2001.08361, table 1), and the chunked sums.

    Each of the two sums costs 2 H K to add to and 2 H K to read, and a position compares with a chunk, 4 H T.
    """
    return 8.0 * d_model**2 + 8.0 * d_model * config.d_head + 4.0 * d_model * min(CHUNK, seq_len)


def momentum_footprint(config: MomentumConfig, d_model: int, step: Pass) -> Footprint:
    """Tensors of all channels, weights within chunks, and sums (K, K) for each chunk."""
    chunk = min(CHUNK, step.length)
    n, num_heads, chunks = step.positions, d_model // config.d_head, step.sequences * -(-step.length // chunk)
    width = REAL * n * d_model
    inside = REAL * n * chunk * num_heads
    sums = REAL * chunks * d_model * config.d_head
    saved = 11 * width + step.product * n * d_model + 2 * inside + 5 * sums
    return Footprint(saved=saved + step.rounded(d_model**2), working=4 * width)
