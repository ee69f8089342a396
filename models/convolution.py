"""Convolution of long signals with long kernels, by FFT.

Letters: B batch, L length, H channels, C kernels per channel, T taps of a kernel.

Autograd's own backward of rfft and irfft goes through full complex transforms and keeps every spectrum. The
adjoint here takes real transforms only, works on a few channels at a time, which stay in the cache, and keeps
nothing but the inputs for the backward pass.
"""

from typing import Any

import torch

from models import cache_blocks

_BLOCK_BYTES = 1 << 20  # of padded signals: about one core's second-level cache


def fft_length(length: int) -> int:
    """Smallest even 2^a 3^b 5^c that is at least `length`."""
    # 2049 -> 2160, where the next power of two is 4096. Even, because a real transform of n works as a
    # complex one of n / 2.
    best = 1 << max(length - 1, 1).bit_length()
    power5 = 1
    while power5 < best:
        odd = power5
        while odd < best:
            best = min(best, odd << max(1, (-(-length // odd) - 1).bit_length()))
            odd *= 3
        power5 *= 5
    return best


def causal_convolution(u_BLH: torch.Tensor, k_CHL: torch.Tensor) -> torch.Tensor:
    """y[l] = sum_j k[j] u[l-j], of shape (B, C, H, L), in the dtype of the inputs (float32 or float64)."""
    # B=2, L=8, H=4, C=1: 16 >= 2 L - 1 places, so that the end of u does not wrap into the start of y.
    # Spectra have 9 frequencies F: u (2, 1, 4, 9) times k (1, 4, 9) is (2, 1, 4, 9), and y (2, 1, 4, 8).
    return circular_convolution(u_BLH, k_CHL, fft_length(2 * u_BLH.shape[1] - 1))


def two_sided_convolution(u_BLH: torch.Tensor, k_CHL: torch.Tensor, ahead_CHL: torch.Tensor) -> torch.Tensor:
    """y[l] = sum_j k[j] u[l-j] + sum_j ahead[j] u[l+1+j]: each input counts once. (B, C, H, L)."""
    # On a ring, place -1 - j is j + 1 steps ahead. L=3, 6 places: [k0 k1 k2 | ahead2 ahead1 ahead0].
    size = fft_length(2 * u_BLH.shape[1])
    gap = k_CHL.new_zeros(*k_CHL.shape[:2], size - 2 * u_BLH.shape[1])
    return circular_convolution(u_BLH, torch.cat((k_CHL, gap, ahead_CHL.flip(-1)), dim=-1), size)


def circular_convolution(u_BLH: torch.Tensor, k_CHT: torch.Tensor, size: int) -> torch.Tensor:
    """The first L values of the circular convolution of length `size`: (B, C, H, L)."""
    if torch.compiler.is_compiling():
        return _convolve(u_BLH, k_CHT, size)
    y_BCHL: torch.Tensor = _Convolution.apply(u_BLH, k_CHT, size)
    return y_BCHL


def _convolve(u_BLH: torch.Tensor, k_CHT: torch.Tensor, size: int) -> torch.Tensor:
    """The plain form of the same."""
    u_B1HF = torch.fft.rfft(u_BLH.transpose(1, 2), n=size)[:, None]
    return torch.fft.irfft(u_B1HF * torch.fft.rfft(k_CHT, n=size), n=size)[..., : u_BLH.shape[1]]


class _Convolution(torch.autograd.Function):
    """Bilinear in (u, k), its adjoint written out. Differentiable again, and by torch.func."""

    @staticmethod
    def forward(u_BLH: torch.Tensor, k_CHT: torch.Tensor, size: int) -> torch.Tensor:
        (B, L, H), C = u_BLH.shape, k_CHT.shape[0]
        u_BHL = channels_first(u_BLH)
        if not cache_blocks.takes_blocks(u_BLH.device):
            return _filter(u_BHL[:, None], k_CHT, size)[..., :L].contiguous()  # a view would keep all of it
        y_BCHL = u_BLH.new_empty(B, C, H, L)
        for part in _blocks(u_BLH, size):
            y_BCHL[:, :, part] = _filter(u_BHL[:, None, part], k_CHT[:, part], size)[..., :L]
        return y_BCHL

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[torch.Tensor, torch.Tensor, int], output: torch.Tensor) -> None:
        u_BLH, k_CHT, ctx.size = inputs
        ctx.save_for_backward(u_BLH, k_CHT)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        u_BLH, k_CHT = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative is wanted: let autograd see the operations
            return *_plain_adjoint(u_BLH, k_CHT, grads[0], ctx.size), None
        return *_adjoint(u_BLH, k_CHT, grads[0], ctx.size), None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[torch.Tensor, int]:
        u, k = (
            x.movedim(dim, 0) if dim is not None else x.expand(info.batch_size, *x.shape)
            for x, dim in zip(inputs[:2], in_dims[:2], strict=True)
        )
        # one by one: each of them is cut into blocks that fill the cache already
        return torch.stack([circular_convolution(*pair, inputs[2]) for pair in zip(u, k, strict=True)]), 0


def _adjoint(
    u_BLH: torch.Tensor, k_CHT: torch.Tensor, grad_BCHL: torch.Tensor, size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients by u and k: correlations with the other one."""
    # A correlation is a product with the conjugate spectrum. k serves every sequence of the batch and u every
    # kernel: the sums over C and B of their gradients are taken in frequency, before the transform back.
    L, T = u_BLH.shape[1], k_CHT.shape[-1]
    u_BHL = channels_first(u_BLH)
    if not cache_blocks.takes_blocks(u_BLH.device):
        du_BHn, dk_CHn = _correlate(u_BHL, k_CHT, grad_BCHL, size)
        return channels_first(du_BHn[..., :L]), dk_CHn[..., :T]
    du_BHL, dk_CHT = torch.empty_like(u_BHL), torch.empty_like(k_CHT)
    for part in _blocks(u_BLH, size):
        du_BHn, dk_CHn = _correlate(u_BHL[:, part], k_CHT[:, part], grad_BCHL[:, :, part], size)
        du_BHL[:, part], dk_CHT[:, part] = du_BHn[..., :L], dk_CHn[..., :T]
    return channels_first(du_BHL), dk_CHT


def _filter(u_B1HL: torch.Tensor, k_CHT: torch.Tensor, size: int) -> torch.Tensor:
    """All values of the circular convolution, (B, C, H, size)."""
    return torch.fft.irfft(torch.fft.rfft(u_B1HL, n=size) * torch.fft.rfft(k_CHT, n=size), n=size)


def _correlate(
    u_BHL: torch.Tensor, k_CHT: torch.Tensor, grad_BCHL: torch.Tensor, size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients by u (B, H, size) and k (C, H, size)."""
    g_BCHF = torch.fft.rfft(grad_BCHL, n=size)
    du_BCHF = g_BCHF * torch.fft.rfft(k_CHT, n=size).conj()
    # a sum over one kernel would be another pass over memory
    du_BHF = du_BCHF[:, 0] if len(k_CHT) == 1 else du_BCHF.sum(1)
    dk_CHF = (g_BCHF * torch.fft.rfft(u_BHL, n=size)[:, None].conj()).sum(0)
    return torch.fft.irfft(du_BHF, n=size), torch.fft.irfft(dk_CHF, n=size)


def _plain_adjoint(
    u_BLH: torch.Tensor, k_CHT: torch.Tensor, grad_BCHL: torch.Tensor, size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The plain form of the same."""
    g_BCHF = torch.fft.rfft(grad_BCHL, n=size)
    k_CHF = torch.fft.rfft(k_CHT, n=size)
    u_B1HF = torch.fft.rfft(u_BLH.transpose(1, 2), n=size)[:, None]
    du_BHL = torch.fft.irfft((g_BCHF * k_CHF.conj()).sum(1), n=size)[..., : u_BLH.shape[1]]
    dk_CHT = torch.fft.irfft((g_BCHF * u_B1HF.conj()).sum(0), n=size)[..., : k_CHT.shape[-1]]
    return du_BHL.transpose(1, 2), dk_CHT


def _blocks(u_BLH: torch.Tensor, size: int) -> list[slice]:
    """Cut the channels so that a part fits the cache of each thread."""
    num_channels = u_BLH.shape[2]
    # B=8, 2000 places of float32: 64 kB a channel, hence 16 channels a block and thread
    most = _BLOCK_BYTES * torch.get_num_threads() // (u_BLH.shape[0] * size * u_BLH.element_size())
    step = max(1, most)
    return [slice(start, start + step) for start in range(0, num_channels, step)]


def channels_first(x_BLH: torch.Tensor) -> torch.Tensor:
    """(B, L, H) -> (B, H, L) in new memory; on a CPU one matrix at a time: torch is fast at those."""
    if not cache_blocks.takes_blocks(x_BLH.device):
        return x_BLH.transpose(1, 2).contiguous()
    out = x_BLH.new_empty(x_BLH.shape[0], x_BLH.shape[2], x_BLH.shape[1])
    for row, x_LH in zip(out.unbind(0), x_BLH.unbind(0), strict=True):
        row.copy_(x_LH.t())
    return out
