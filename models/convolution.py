"""Causal convolution of long signals with long kernels.

Letters: B batch, L length, H channels.
"""

import torch


def fft_length(length: int) -> int:
    """Smallest even 2^a 3^b 5^c that holds a linear convolution of two signals of this length."""
    need, best = max(2 * length - 1, 2), 1 << (max(2 * length - 1, 2) - 1).bit_length()
    power5 = 1
    while power5 < best:
        size = power5
        while size < best:
            total = size * 2 << max(0, (-(-need // (size * 2)) - 1).bit_length())
            best = min(best, total)
            size *= 3
        power5 *= 5
    return best


def causal_convolution(u_BHL: torch.Tensor, k_HL: torch.Tensor) -> torch.Tensor:
    """y[l] = sum_j k[j] u[l-j], by FFT, in the dtype of the inputs (float32 or float64)."""
    length = u_BHL.shape[-1]
    size = fft_length(length)
    spectrum = torch.fft.rfft(u_BHL, n=size) * torch.fft.rfft(k_HL, n=size)
    return torch.fft.irfft(spectrum, n=size)[..., :length]
