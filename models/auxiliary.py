"""Losses beside the task's, on hidden states, and the quantities that they and diagnoses are made of.

Letters: B samples of this rank, R ranks, K units (all numbers that a layer gives for one sample), H channels.
"""

import math
from typing import Final, Protocol, final

import torch
from torch import nn

from models.config import BatchEntropyConfig, SoftNeighboursConfig


class Across(Protocol):
    """What all ranks together hold, where each brings as many samples. Their gradients are averaged."""

    count: int
    """R."""

    def mean(self, x: torch.Tensor) -> torch.Tensor:
        """Of every rank's x."""

    def gather(self, x: torch.Tensor) -> torch.Tensor:
        """Every rank's x (B, ...), one after the other: (R B, ...)."""


@final
class _Alone:
    """A single rank."""

    count = 1

    def mean(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def gather(self, x: torch.Tensor) -> torch.Tensor:
        return x


ALONE: Final[Across] = _Alone()


def batch_entropy(output: torch.Tensor, across: Across) -> torch.Tensor:
    """Of a layer's output (B, ...) over all ranks' samples: mean_k ln(pi e sigma_k^2 + 1) / 2, with sigma_k
    over samples, unbiased; as in the code of its authors (arXiv 2208.01134). NaN of a single sample."""
    values_BK = output.flatten(1).float()
    count = len(values_BK) * across.count
    mean_K = across.mean(values_BK.detach().mean(0))  # deviations sum to 0: no gradient goes this way
    # Of deviations, not of squares: those cancel where the mean is large.
    variance_K = (
        across.mean((values_BK - mean_K).square().sum(0) / len(values_BK)) * count / max(count - 1, 1)
    )
    entropy = (math.pi * math.e * variance_K).log1p().mean() / 2
    return entropy if count > 1 else torch.full_like(entropy, math.nan)


def soft_neighbours(x_BH: torch.Tensor, y_B: torch.Tensor, inverse_temperature: torch.Tensor) -> torch.Tensor:
    """Soft nearest neighbour loss (arXiv 1902.01889): how little a sample's own class is near it.

    The mean over samples i that are not alone in their class of -log of the share that their class has in
    sum_k exp(-d_ik / T), k != i; 0 without any. d is the *mean* squared difference over channels, not its
    sum, so that a temperature means the same at every width.
    """
    x_BH = x_BH.float()
    # Without products: |a|^2 - 2 ab + |b|^2 cancels for near neighbours.
    apart_BB = torch.cdist(x_BH, x_BH, compute_mode="donot_use_mm_for_euclid_dist")
    distance_BB = apart_BB.square() / x_BH.shape[1]
    itself_BB = torch.eye(len(x_BH), dtype=torch.bool, device=x_BH.device)
    same_BB = (y_B[:, None] == y_B[None]) & ~itself_BB
    counts_B = same_BB.any(1)
    # The lowest finite number, not -inf, where nothing is left: gradients there are 0, not NaN.
    lowest = torch.finfo(distance_BB.dtype).min
    logits_BB = (-distance_BB * inverse_temperature).masked_fill(itself_BB, lowest)
    near_B = logits_BB.masked_fill(~same_BB, lowest).logsumexp(1)
    loss_B = torch.where(counts_B, logits_BB.logsumexp(1) - near_B, 0.0)
    return loss_B.sum() / counts_B.sum().clamp(min=1)


@final
class BatchEntropy(nn.Module):
    """Entropies of all layers -> the factor on the task's loss: 1 + mean_l weight (H_l - target_l)^2, where
    target_l is the larger of |what is learned| and a lower bound (arXiv 2208.01134 and its code)."""

    def __init__(self, config: BatchEntropyConfig, num_layers: int) -> None:
        super().__init__()
        self.weight, self.least = config.weight, config.least_target
        self.target = nn.Parameter(torch.empty(num_layers))
        self.across = ALONE

    def measure(self, output: torch.Tensor) -> torch.Tensor:
        """Of one layer."""
        return batch_entropy(output, self.across)

    def forward(self, entropies_L: torch.Tensor) -> torch.Tensor:
        target_L = self.target.float().abs().clamp(min=self.least)
        return 1.0 + self.weight * (entropies_L - target_L).square().mean()


@final
class Entropies:
    """Those of one forward pass; of nothing, where no regularizer or no gradient is wanted."""

    def __init__(self, regularizer: BatchEntropy | None) -> None:
        self._regularizer = regularizer if torch.is_grad_enabled() else None
        self._found: list[torch.Tensor] = []

    def add(self, output: torch.Tensor) -> None:
        """A layer's output."""
        if self._regularizer is not None:
            self._found.append(self._regularizer.measure(output))

    def regularize(self, scores_2: torch.Tensor) -> torch.Tensor:
        """The scores with their loss times the factor; hits are 0 where a gradient is wanted."""
        factor = None if self._regularizer is None else self._regularizer(torch.stack(self._found))
        return scores_2 if factor is None else scores_2 * factor


@final
class SoftNeighbours(nn.Module):
    """Vectors (B, H) and labels (B) of a rank -> weight times the loss over all ranks' samples."""

    def __init__(self, config: SoftNeighboursConfig) -> None:
        super().__init__()
        self.weight = config.weight
        self.log_inverse_temperature = nn.Parameter(torch.empty(1))  # FSDP2 refuses scalars
        self.across = ALONE

    def forward(self, x_BH: torch.Tensor, y_B: torch.Tensor) -> torch.Tensor:
        inverse = self.log_inverse_temperature.float().exp()
        return self.weight * soft_neighbours(self.across.gather(x_BH), self.across.gather(y_B), inverse)


def is_auxiliary(parameter: str) -> bool:
    """Whether a parameter, by its name, is only the loss': no output depends on it, and it may rest."""
    return parameter.partition(".")[0] in ("batch_entropy", "soft_neighbours")


def join_ranks(model: nn.Module, across: Across) -> None:
    """Have the auxiliary losses of a model see all ranks' samples."""
    for module in model.modules():
        if isinstance(module, BatchEntropy | SoftNeighbours):
            module.across = across
