"""Softmax attention with rotary positions (arXiv 1706.03762, 2104.09864).

Letters: B batch, L length, H channels, A heads, K channels per head.
"""

import math
from dataclasses import replace
from typing import Any, final

import torch
from torch import nn

from models.config import AttentionConfig
from models.documents import Documents
from models.facts import ParamFacts
from models.footprint import REAL, Footprint, Pass
from models.inits import constant
from models.layers import MATRIX, Linear, linear_facts
from models.mixer import Mixer, State
from models.precision import as_products_take

ROTARY_BASE = 10_000.0


@final
class Attention(Mixer):
    """The state is the cache of rotated keys and of values; its length is the position."""

    def __init__(self, config: AttentionConfig, d_model: int, multiplier: float = 1.0) -> None:
        super().__init__()
        self.causal, self.rotary = config.causal, config.rotary
        self.num_heads = count_heads(config, d_model)
        self.d_head = d_model // self.num_heads
        self.scale = multiplier * logit_scale(config, self.d_head)
        self.query, self.key, self.value, self.output = (Linear(d_model, d_model) for _ in range(4))

    def forward(
        self, x_BLH: torch.Tensor, mask_BL: torch.Tensor | None = None, documents: Documents | None = None
    ) -> torch.Tensor:
        q, k, v = self._project(x_BLH, first=0)
        if documents is not None:
            # Rotary positions need no start of their own: only differences of two matter.
            return self._attend(q, k, v, documents.visible()[:, None], causal=False)
        # padding comes last, so a causal position never sees it
        keys = None if self.causal or mask_BL is None else mask_BL[:, None, None]
        return self._attend(q, k, v, keys, causal=self.causal)

    def initial_state(self, batch_size: int, device: torch.device) -> State:
        if not self.causal:
            raise ValueError("causal is false: a layer that looks ahead has no state to carry")
        shape, dtype = (batch_size, self.num_heads, 0, self.d_head), self.key.weight.dtype
        empty = torch.zeros(shape, dtype=dtype, device=device)
        return empty, empty

    def advance(self, x_BLH: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        old_k, old_v = state
        past, length = old_k.shape[2], x_BLH.shape[1]
        q, k, v = self._project(x_BLH, first=past)
        k, v = torch.cat((old_k.to(k.dtype), k), dim=2), torch.cat((old_v.to(v.dtype), v), dim=2)
        # 3 tokens in the cache and 2 new ones: (2, 5), where the first sees 4 keys and the second all 5
        seen_LK = torch.ones(length, past + length, dtype=torch.bool, device=x_BLH.device).tril(past)
        return self._attend(q, k, v, seen_LK, causal=False), (k, v)

    def _project(self, x_BLH: torch.Tensor, *, first: int) -> tuple[torch.Tensor, ...]:
        """Queries, keys, values (B, A, L, K), rotated from position `first` on."""
        # Rounded once for all three products, not for each: one copy is kept for the backward pass.
        x_BLH = as_products_take(x_BLH)
        q, k, v = (
            part(x_BLH).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        if self.rotary:
            turns = _turns(q, first)
            q, k = _Turn.apply(q, *turns), _Turn.apply(k, *turns)
        return q, k, v

    def _attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, *, causal: bool
    ) -> torch.Tensor:
        attend = nn.functional.scaled_dot_product_attention
        out = attend(q, k, v, attn_mask=mask, is_causal=causal, scale=self.scale)
        return self.output(out.transpose(1, 2).flatten(2))


def rotate(x_BALK: torch.Tensor, first: int) -> torch.Tensor:
    """Turn pairs (k, k + K/2) of each position by position * base^(-2k/K)."""
    turned: torch.Tensor = _Turn.apply(x_BALK, *_turns(x_BALK, first))
    return turned


def _turns(x_BALK: torch.Tensor, first: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and sine (L, K) of the angles of positions from `first` on, those of the first half negative."""
    # Position p turns pair k by p * 10000^(-2k/K), so q_i k_j depends on i - j alone. In bfloat16 position
    # 1001 would be 1000: angles are made in float32 and only their cosines rounded.
    length, half = x_BALK.shape[-2], x_BALK.shape[-1] // 2
    rates = ROTARY_BASE ** (-torch.arange(half, dtype=torch.float32, device=x_BALK.device) / half)
    positions = torch.arange(first, first + length, dtype=torch.float32, device=x_BALK.device)
    angles_LK = positions[:, None] * torch.cat((-rates, rates))
    return angles_LK.cos().to(x_BALK.dtype), angles_LK.sin().to(x_BALK.dtype)


@final
class _Turn(torch.autograd.Function):
    """Halves (a, b) -> (a cos - b sin, b cos + a sin). Its gradient turns back: three passes over memory each
    way, where autograd would take its own way back through four products."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x_BALK: torch.Tensor, cos_LK: torch.Tensor, sin_LK: torch.Tensor) -> torch.Tensor:
        return _turn(x_BALK, cos_LK, sin_LK, 1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, grad_BALK: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        cos_LK, sin_LK = ctx.saved_tensors
        return _turn(grad_BALK, cos_LK, sin_LK, -1), None, None


def _turn(x_BALK: torch.Tensor, cos_LK: torch.Tensor, sin_LK: torch.Tensor, way: int) -> torch.Tensor:
    swapped = x_BALK.roll(x_BALK.shape[-1] // 2, dims=-1)
    return torch.addcmul(x_BALK * cos_LK, swapped, sin_LK, value=way)


def count_heads(config: AttentionConfig, d_model: int) -> int:
    """Number of heads: given, or as many of `d_head` as d_model holds."""
    if config.num_heads is not None:
        return config.num_heads
    assert config.d_head is not None, "AttentionConfig demands one of num_heads and d_head"
    return d_model // config.d_head


def logit_scale(config: AttentionConfig, d_head: int) -> float:
    """Factor on q k: muP's 1/d, 8/d to equal 1/sqrt(d) at 64 (arXiv 2203.03466, section 4), or 1/sqrt(d)."""
    return 8 / d_head if config.scale == "mup" else 1 / math.sqrt(d_head)


def attention_facts(config: AttentionConfig) -> dict[str, ParamFacts]:
    """Facts by name."""
    facts = {
        name: fact
        for part in ("query", "key", "value", "output")
        for name, fact in linear_facts(part).items()
    }
    if config.query_zero_init:
        facts["query.weight"] = replace(MATRIX, init=constant(0.0))
    return facts


def attention_flops(d_model: int, seq_len: int, *, causal: bool) -> float:
    """Forward FLOPs per token: 8 H^2 of matrices, 4 L H of logits and sums (arXiv 2001.08361, table 1).

    A causal position sees (L + 1) / 2 positions on average.
    """
    seen = (seq_len + 1) / 2 if causal else seq_len
    return 8.0 * d_model**2 + 4.0 * seen * d_model


def attention_footprint(config: AttentionConfig, d_model: int, step: Pass) -> Footprint:
    """The input of q, k, v, these three, and the sums; turning a query keeps its angles only."""
    num_heads = count_heads(config, d_model)
    width = step.product * step.positions * d_model
    angles = 2.0 * step.product * step.length * (d_model // num_heads) if config.rotary else 0.0
    norms = REAL * step.positions * num_heads
    saved = 5 * width + angles + norms + step.rounded(4.0 * d_model**2)
    # Of the sums and of q, k, v, one turned and one not.
    return Footprint(saved=saved, working=REAL * step.positions * d_model + 4 * width)
