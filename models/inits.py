"""Initial values: functions (shape, generator) -> float32 tensor, referred to by parameter facts."""

import math

import torch

from models.facts import Init


def constant(value: float) -> Init:
    """Fill with one value."""
    return lambda shape, generator: torch.full(shape, value)


def normal(std: float) -> Init:
    """Gaussian with a width-independent standard deviation."""
    return lambda shape, generator: torch.randn(shape, generator=generator) * std


def normal_fan_in(shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    """Gaussian with standard deviation 1/sqrt(fan_in), for weights stored as (fan_out, fan_in)."""
    return torch.randn(shape, generator=generator) / math.sqrt(shape[1])


def log_uniform(low: float, high: float) -> Init:
    """Logarithms of values whose logarithm is uniform between those of `low` and `high`."""
    start, width = math.log(low), math.log(high) - math.log(low)
    return lambda shape, generator: start + width * torch.rand(shape, generator=generator)


def uniform(low: float, high: float) -> Init:
    """Uniform between two values."""
    return lambda shape, generator: low + (high - low) * torch.rand(shape, generator=generator)


def log_of_uniform(low: float, high: float) -> Init:
    """Logarithms of values that are uniform between two."""
    return lambda shape, generator: torch.log(uniform(low, high)(shape, generator))


def softplus_log_uniform(low: float, high: float) -> Init:
    """Values whose softplus has a logarithm that is uniform between those of `low` and `high`."""

    def fill(shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
        # log(1 + e^x) = t has x = log(e^t - 1) = t + log(1 - e^-t), which keeps its digits for small t
        target = torch.exp(log_uniform(low, high)(shape, generator))
        return target + torch.log(-torch.expm1(-target))

    return fill


def copies(*starts: torch.Tensor) -> Init:
    """Cut the first dimension into equal parts and fill each with one precomputed tensor."""

    def fill(shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
        if shape[0] % len(starts):
            raise ValueError(f"{shape[0]} copies (n_ssm) do not divide into {len(starts)} initial values")
        whole = torch.empty(shape)
        for part, start in zip(whole.chunk(len(starts)), starts, strict=True):
            part.copy_(start)
        return whole

    return fill
