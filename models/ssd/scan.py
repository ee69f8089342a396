"""h_t = exp(z_t) h_{t-1} + b_t x_t^T, y_t = c_t h_t for every head, by products of matrices.

Positions are taken in chunks (arXiv 2405.21060, section 6): within a chunk every position weighs all earlier
ones, as in attention; between chunks only states pass. Decays are exponentials of sums of z, at most zero.

Letters: B batch, L length, A heads (with b and c in common), P channels per head, N state, G chunks, T
positions of a chunk, S sources, X all channels of all heads.
"""

from typing import Any, final

import torch

CHUNK = 64
SPAN = 64 * CHUNK
"""Positions taken at once: every chunk of a span weighs every other, which is quadratic in their number."""


def scan(
    x_BLAP: torch.Tensor,
    z_BLA: torch.Tensor,
    b_BLN: torch.Tensor,
    c_BLN: torch.Tensor,
    h_BANP: torch.Tensor,
    product: torch.dtype | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(y (B, L, A, P), h after the last position), given h before the first.

    What goes into products of chunks is rounded to `product`, and so are the weights within chunks, as the
    paper's code does it. Sums, decays between chunks and states stay as they are.
    """
    if x_BLAP.shape[1] == 1:
        return _scan_one(x_BLAP, z_BLA, b_BLN, c_BLN, h_BANP)
    product = product or x_BLAP.dtype
    outputs = []
    for start in range(0, x_BLAP.shape[1], SPAN):
        x, z, b, c = (part[:, start : start + SPAN] for part in (x_BLAP, z_BLA, b_BLN, c_BLN))
        y_BLAP, h_BANP = _scan_span(x, z, b, c, h_BANP, product)
        outputs.append(y_BLAP)
    return (outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)), h_BANP


def _scan_one(
    x_B1AP: torch.Tensor, z_B1A: torch.Tensor, b_B1N: torch.Tensor, c_B1N: torch.Tensor, h_BANP: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """One position, as it is defined: the step of generation."""
    # B=1, A=2, P=4, N=3: b (1, 1, 3, 1) times x (1, 2, 1, 4), an outer product for each head's h (1, 2, 3, 4)
    added_BANP = b_B1N[:, :, :, None] * x_B1AP.transpose(1, 2)
    h_BANP = z_B1A[:, 0, :, None, None].exp() * h_BANP + added_BANP
    return (c_B1N[:, None].to(h_BANP.dtype) @ h_BANP).transpose(1, 2), h_BANP


def _scan_span(
    x_BLAP: torch.Tensor,
    z_BLA: torch.Tensor,
    b_BLN: torch.Tensor,
    c_BLN: torch.Tensor,
    h_BANP: torch.Tensor,
    product: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`scan` of one span: y_t = c_t (sum over sources s <= t of the own chunk) + exp(sums_t) c_t h_before."""
    # B=1, L=130, A=2, P=4, N=3: T=64, G=3, the last chunk with 62 positions of zeros. scores (1, 3, 64, 64)
    # are one for both heads, since b and c are; decays (1, 2, 3, 64, 64) are each head's own. `inside` is
    # their product with x, (1, 2, 3, 64, 4); `before` is c (1, 3, 64, 3) times the state before each chunk,
    # with the heads side by side (1, 3, 3, 2 x 4): (1, 3, 64, 2, 4).
    length = x_BLAP.shape[1]
    size = min(CHUNK, length)
    x_BGTAP, b_BGTN, c_BGTN = (_in_chunks(part.to(product), size) for part in (x_BLAP, b_BLN, c_BLN))
    z_BGTA = _in_chunks(z_BLA, size)
    # Differences of long sums lose digits: the sums, one number a head and position, are float64.
    sums_BAGT = z_BGTA.double().cumsum(2).permute(0, 3, 1, 2)
    ends_BAG = sums_BAGT[..., -1].cumsum(-1)
    scores_BGTT = c_BGTN @ b_BGTN.transpose(-1, -2)
    inside_BAGTP = _Inside.apply(sums_BAGT, scores_BGTT, x_BGTAP.permute(0, 3, 1, 2, 4))
    h_BAGNP, h_BANP = _between(x_BGTAP, b_BGTN, sums_BAGT, ends_BAG, h_BANP)
    h_BGNX = h_BAGNP.permute(0, 2, 3, 1, 4).flatten(3)  # all heads side by side: one product
    before_BGTAP = (c_BGTN @ h_BGNX.to(product)).unflatten(-1, x_BGTAP.shape[3:])
    fade_BGTA = sums_BAGT.to(x_BLAP.dtype).exp().permute(0, 2, 3, 1)
    y_BGTAP = inside_BAGTP.permute(0, 2, 3, 1, 4) + fade_BGTA[..., None] * before_BGTAP
    return y_BGTAP.flatten(1, 2)[:, :length], h_BANP


def inside(sums_BAGT: torch.Tensor, scores_BGTT: torch.Tensor, x_BAGTP: torch.Tensor) -> torch.Tensor:
    """What positions get from those of their own chunk: the plain form of _Inside."""
    return (scores_BGTT[:, None] * _decays(sums_BAGT, x_BAGTP.dtype)) @ x_BAGTP


@final
class _Inside(torch.autograd.Function):
    """Weighs again in the backward pass: weights of all pairs are most of what a chunk would keep.
    Differentiable again, and by torch.func."""

    generate_vmap_rule = True

    @staticmethod
    def forward(sums_BAGT: torch.Tensor, scores_BGTT: torch.Tensor, x_BAGTP: torch.Tensor) -> torch.Tensor:
        return inside(sums_BAGT, scores_BGTT, x_BAGTP)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad_BAGTP: torch.Tensor) -> tuple[torch.Tensor, ...]:
        sums_BAGT, scores_BGTT, x_BAGTP = ctx.saved_tensors
        decays_BAGTT = _decays(sums_BAGT, x_BAGTP.dtype)
        dweights_BAGTT = grad_BAGTP @ x_BAGTP.transpose(-1, -2)
        dscores_BAGTT = dweights_BAGTT * decays_BAGTT
        dx_BAGTP = (scores_BGTT[:, None] * decays_BAGTT).transpose(-1, -2) @ grad_BAGTP
        # The exponent is the difference of two sums: a later one's, and minus an earlier one's.
        dapart_BAGTT = (dscores_BAGTT * scores_BGTT[:, None]).to(
            torch.promote_types(x_BAGTP.dtype, torch.float32)
        )
        dsums_BAGT = dapart_BAGTT.sum(-1) - dapart_BAGTT.sum(-2)
        return dsums_BAGT.to(sums_BAGT.dtype), dscores_BAGTT.sum(1), dx_BAGTP


def _in_chunks(x: torch.Tensor, size: int) -> torch.Tensor:
    """(B, L, ...) -> (B, G, T, ...). Zeros fill the last chunk: a step of z = 0 and x = 0 changes nothing."""
    pad = -x.shape[1] % size
    if pad:
        x = torch.cat((x, x.new_zeros(x.shape[0], pad, *x.shape[2:])), dim=1)
    return x.unflatten(1, (-1, size))


def _between(
    x_BGTAP: torch.Tensor,
    b_BGTN: torch.Tensor,
    sums_BAGT: torch.Tensor,
    ends_BAG: torch.Tensor,
    h_BANP: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The states before every chunk (B, A, G, N, P), and the one after the last."""
    fade_BAGT = (sums_BAGT[..., -1:] - sums_BAGT).to(h_BANP.dtype).exp()
    faded_BGTX = (x_BGTAP * fade_BAGT.permute(0, 2, 3, 1)[..., None]).flatten(3)
    added_BGNX = b_BGTN.transpose(-1, -2) @ faded_BGTX.to(b_BGTN.dtype)
    added_BAGNP = added_BGNX.to(h_BANP.dtype).unflatten(-1, x_BGTAP.shape[3:]).permute(0, 3, 1, 2, 4)
    # The state at the start is the first source, and each chunk the next. G=3: sources (1, 2, 4, 3 x 4) and
    # decays (1, 2, 4, 4), whose row g is what is left of each source where chunk g starts; row 3, at the end.
    sources_BASX = torch.cat((h_BANP[:, :, None], added_BAGNP), dim=2).flatten(3)
    decays_BASS = _decays(torch.nn.functional.pad(ends_BAG, (1, 0)), h_BANP.dtype)
    states_BASNP = (decays_BASS @ sources_BASX).unflatten(-1, h_BANP.shape[2:])
    return states_BASNP[:, :, :-1], states_BASNP[:, :, -1]


def _decays(sums: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """exp(sums_i - sums_j) for i >= j, else 0: (..., T) -> (..., T, T). Masked before the exponential."""
    # Above the diagonal the difference is positive and its exponential may be inf: masked afterwards, the
    # gradient would be inf * 0 = NaN. exp(-inf) is 0, and so is its gradient.
    size = sums.shape[-1]
    later_TT = torch.full((size, size), -torch.inf, dtype=dtype, device=sums.device).triu(1)
    # plus a small negative: the adjoint of a difference would negate a large tensor
    apart = sums[..., :, None] + sums.neg()[..., None, :]
    return (apart.to(dtype) + later_TT).exp()
