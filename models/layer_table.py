"""The closed table of layer kinds: what a recipe's `pattern` may name."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from models.attention import Attention, attention_facts, attention_flops, attention_footprint
from models.config import BackboneSection, LayerName
from models.facts import Multipliers, ParamFacts
from models.ffn import FFN, ffn_facts, ffn_flops, ffn_footprint
from models.footprint import NO_KERNELS, REAL, Footprint, KernelFootprint, Pass
from models.layers import Dropout
from models.mixer import Mixer
from models.momentum import MomentumAttention, momentum_facts, momentum_flops, momentum_footprint
from models.ssd.ssd_mixer import SSD, ssd_facts, ssd_flops, ssd_footprint
from models.ssm.config import SSMSection
from models.ssm.diagonal import diagonal_carry_flops, diagonal_footprint, diagonal_kernel_flops
from models.ssm.dss import DSS, dss_facts
from models.ssm.low_rank import low_rank_carry_flops, low_rank_kernel_flops
from models.ssm.s4 import S4, s4_facts, s4_footprint
from models.ssm.s4d import S4D, s4d_facts
from models.ssm.ssm_mixer import SSMMixer, mixer_facts, mixer_flops, mixer_footprint


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LayerKind:
    """One kind of residual branch: how it is built, what its parameters are, what a token costs."""

    build: Callable[[BackboneSection, Multipliers], Mixer]
    facts: Callable[[BackboneSection], dict[str, ParamFacts]]
    flops: Callable[[BackboneSection, int], float]
    """Forward."""
    footprint: Callable[[BackboneSection, Pass], Footprint]
    """Without its norm, its sum with the input, and its kernels."""
    kernel_footprint: Callable[[BackboneSection, int], KernelFootprint] = lambda c, seq_len: NO_KERNELS
    kernel_flops: Callable[[BackboneSection, int], float] = lambda c, seq_len: 0.0
    """Forward FLOPs of one pass, whatever the batch: kernels of a state space."""
    carry_flops: Callable[[BackboneSection, int], float] = lambda c, seq_len: 0.0
    """What carrying a state from window to window adds, forward and backward."""


def _dropout(config: BackboneSection) -> Dropout:
    return Dropout(config.dropout, tied=config.dropout_tied)


def _kernels(config: BackboneSection, section: SSMSection, seq_len: int, between: float) -> KernelFootprint:
    taps = REAL * float(section.num_kernels * config.d_model * seq_len)
    return KernelFootprint(taps=taps, between=between)


def layer_kind(config: BackboneSection, name: LayerName) -> LayerKind:
    """The row of a kind, from the table or from an extension."""
    return config.added[name].kind() if name in config.added else LAYERS[name]


LAYERS: dict[LayerName, LayerKind] = {
    "s4d": LayerKind(
        build=lambda c, m: SSMMixer(c.s4d, c.d_model, S4D(c.s4d, c.d_model), _dropout(c), m.ssm),
        facts=lambda c: mixer_facts(c.s4d, s4d_facts(c.s4d)),
        flops=lambda c, seq_len: mixer_flops(c.s4d, c.d_model, seq_len),
        footprint=lambda c, step: mixer_footprint(c.s4d, c.d_model, step, dropout=c.keeps_masks),
        kernel_footprint=lambda c, seq_len: _kernels(
            c, c.s4d, seq_len, diagonal_footprint(c.s4d.d_state // 2, c.d_model, c.s4d.num_kernels, 24)
        ),
        kernel_flops=lambda c, seq_len: (
            c.d_model * diagonal_kernel_flops(c.s4d.d_state // 2, c.s4d.num_kernels, seq_len)
        ),
        carry_flops=lambda c, seq_len: c.d_model * diagonal_carry_flops(c.s4d.d_state, c.s4d.channels),
    ),
    "s4": LayerKind(
        build=lambda c, m: SSMMixer(c.s4, c.d_model, S4(c.s4, c.d_model), _dropout(c), m.ssm),
        facts=lambda c: mixer_facts(c.s4, s4_facts(c.s4)),
        flops=lambda c, seq_len: mixer_flops(c.s4, c.d_model, seq_len),
        footprint=lambda c, step: mixer_footprint(c.s4, c.d_model, step, dropout=c.keeps_masks),
        kernel_footprint=lambda c, seq_len: _kernels(
            c, c.s4, seq_len, s4_footprint(c.s4, c.d_model, seq_len)
        ),
        kernel_flops=lambda c, seq_len: (
            c.d_model * low_rank_kernel_flops(c.s4.d_state, c.s4.rank, c.s4.num_kernels, seq_len)
        ),
        carry_flops=lambda c, seq_len: (
            c.d_model * low_rank_carry_flops(c.s4.d_state, c.s4.rank, c.s4.channels, seq_len)
        ),
    ),
    "dss": LayerKind(
        build=lambda c, m: SSMMixer(c.dss, c.d_model, DSS(c.dss, c.d_model), _dropout(c), m.ssm),
        facts=lambda c: mixer_facts(c.dss, dss_facts(c.dss)),
        flops=lambda c, seq_len: mixer_flops(c.dss, c.d_model, seq_len),
        footprint=lambda c, step: mixer_footprint(c.dss, c.d_model, step, dropout=c.keeps_masks),
        kernel_footprint=lambda c, seq_len: _kernels(
            c, c.dss, seq_len, diagonal_footprint(c.dss.d_state, c.d_model, c.dss.num_kernels, 20)
        ),
        kernel_flops=lambda c, seq_len: (
            c.d_model * diagonal_kernel_flops(c.dss.d_state, c.dss.num_kernels, seq_len)
        ),
        carry_flops=lambda c, seq_len: c.d_model * diagonal_carry_flops(2 * c.dss.d_state, c.dss.channels),
    ),
    "attention": LayerKind(
        build=lambda c, m: Attention(c.attention, c.d_model, m.attention),
        facts=lambda c: attention_facts(c.attention),
        flops=lambda c, seq_len: attention_flops(c.d_model, seq_len, causal=c.attention.causal),
        footprint=lambda c, step: attention_footprint(c.attention, c.d_model, step),
    ),
    "momentum": LayerKind(
        build=lambda c, m: MomentumAttention(c.momentum, c.d_model),
        facts=lambda c: momentum_facts(),
        flops=lambda c, seq_len: momentum_flops(c.momentum, c.d_model, seq_len),
        footprint=lambda c, step: momentum_footprint(c.momentum, c.d_model, step),
    ),
    "ssd": LayerKind(
        build=lambda c, m: SSD(c.ssd, c.d_model, _dropout(c)),
        facts=lambda c: ssd_facts(c.ssd),
        flops=lambda c, seq_len: ssd_flops(c.ssd, c.d_model, seq_len),
        footprint=lambda c, step: ssd_footprint(c.ssd, c.d_model, step, dropout=c.keeps_masks),
    ),
    "ffn": LayerKind(
        build=lambda c, m: FFN(c.ffn, c.d_model, _dropout(c), m.ffn),
        facts=lambda c: ffn_facts(),
        flops=lambda c, seq_len: ffn_flops(c.ffn, c.d_model),
        footprint=lambda c, step: ffn_footprint(c.ffn, c.d_model, step, dropout=c.keeps_masks),
    ),
}
