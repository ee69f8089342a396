"""Sharpness in an optimizer's own coordinates, as a share of its edge of stability (arXiv 2207.14484).

Hessian-vector products are differences of gradients, which every sharding has; a second derivative through
FSDP2's gathering has none.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, final

import numpy as np
import torch
import torch.distributed as dist

from launcher.parallel.gradients import squared_norms
from launcher.parallel.mesh import local_shard

_MOST: Final = 20
"""Products; two gradients each, and two more for each that was too far."""
_SETTLED: Final = 1e-4
"""Relative change of the eigenvalue at which no more are made."""
_BEND: Final = 0.01
"""Of gradients over a difference; the error of a product is about its square."""
_TRIES: Final = 6
_FARTHEST: Final = 0.1
"""Longest difference, in steps of the optimizer."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Coordinates:
    """Those in which an optimizer's step is plain gradient descent of rate 1: weights times P^(1/2)."""

    scales: Sequence[torch.Tensor]
    """P^(-1/2) of this rank's piece of each parameter: sqrt(lr / (sqrt(v) + eps)), with its group's rate."""
    threshold: float
    """Eigenvalue of P^(-1/2) H P^(-1/2) above which steps of this momentum diverge."""


def coordinates_of(optimizer: torch.optim.Optimizer, parameters: Sequence[torch.nn.Parameter]) -> Coordinates:
    """Of Adam, AdamW or SGD with momentum, as they are after a step; pieces in the order of `parameters`."""
    # Adam keeps an average of gradients, m = b m + (1 - b) g: heavy ball at 1 - b of the rate, hence the
    # threshold (2 + 2 b) / (1 - b), 38 at b = 0.9. SGD's momentum, m = b m + g, has 2 + 2 b.
    group_of = {id(one): group for group in optimizer.param_groups for one in group["params"]}
    scales = []
    for parameter in parameters:
        group, state = group_of[id(parameter)], optimizer.state[parameter]
        piece = local_shard(parameter.detach())
        if "exp_avg_sq" in state:
            second = local_shard(state["exp_avg_sq"]) / (1 - group["betas"][1] ** float(state["step"]))
            scales.append((group["lr"] / (second.sqrt() + group["eps"])).sqrt())
        else:
            scales.append(torch.full_like(piece, group["lr"]).sqrt())
    first = optimizer.param_groups[0]
    b = first["betas"][0] if "betas" in first else first["momentum"]
    return Coordinates(scales=scales, threshold=(2 + 2 * b) / (1 - b) if "betas" in first else 2 + 2 * b)


Pieces = Sequence[torch.Tensor]


@torch.no_grad()
def largest_eigenvalue(
    gradients: Callable[[], Pieces], weights: Pieces, scales: Pieces, group: dist.ProcessGroup | None
) -> float:
    """Of S H S with S = diag(scales), by Lanczos' method; NaN where gradients are all zero, or not finite.

    `gradients` gives those at the weights as they are, in the same pieces; the weights end as they were.
    """
    # Without orthogonalizing again: it only repeats eigenvalues that were found, and three vectors suffice.
    differences = _Differences(gradients, weights, scales, group)
    vector, norm = list(differences.here), _norm(differences.here, group)
    if not 0 < norm < math.inf:
        return math.nan
    vector = [piece / norm for piece in vector]
    before = [torch.zeros_like(piece) for piece in vector]
    diagonal: list[float] = []
    beside: list[float] = []
    found = math.nan
    for _ in range(_MOST):
        product = differences.product(vector)
        diagonal.append(_dot(product, vector, group))
        if not math.isfinite(diagonal[-1]):
            return math.nan
        for piece, now, past in zip(product, vector, before, strict=True):
            piece.sub_(diagonal[-1] * now + (beside[-1] if beside else 0.0) * past)
        last, found = found, _top(diagonal, beside)
        beside.append(_norm(product, group))
        if abs(found - last) <= _SETTLED * abs(found) or beside[-1] <= 1e-6 * abs(found):
            break
        before, vector = vector, [piece / beside[-1] for piece in product]
    return found


@final
class _Differences:
    """Products with S H S, from gradients on both sides of the weights."""

    def __init__(
        self,
        gradients: Callable[[], Pieces],
        weights: Pieces,
        scales: Pieces,
        group: dist.ProcessGroup | None,
    ) -> None:
        self._gradients, self._weights, self._scales, self._group = gradients, weights, scales, group
        self._kept = [weight.clone() for weight in weights]
        self.here = self._scaled()
        """S g: in these coordinates, the step of the optimizer without its momentum."""
        self._most = _FARTHEST * _norm(self.here, group)
        self._distance = self._most / 100

    def product(self, vector: Pieces) -> list[torch.Tensor]:
        """S H S v of a vector of length 1; nearer until gradients on both sides bend little."""
        # A state-space layer's A and dt bend within 1e-3 of a step, a matrix in none. Where both sides differ
        # from the middle by d1 + d2 and -d1 + d2, the bend d2 / d1 grows with the distance, the error of the
        # product with its square, and rounding with its inverse.
        distance, least = self._distance, math.inf
        found = [torch.full_like(piece, math.nan) for piece in vector]
        for _ in range(_TRIES):
            bend, product = self._difference(vector, distance)
            if not math.isfinite(bend):
                distance /= 10
                continue
            if bend >= least:
                break  # nearer it was worse: what is left is rounding
            least, found = bend, product
            self._distance = min(self._most, distance * min(4.0, _BEND / max(bend, 1e-9)))
            if bend <= 2 * _BEND:
                break
            distance = self._distance
        for weight, old in zip(self._weights, self._kept, strict=True):
            weight.copy_(old)
        return found

    def _difference(self, vector: Pieces, distance: float) -> tuple[float, list[torch.Tensor]]:
        """How much gradients bend between both sides, and the product that they give."""
        ahead, back = self._at(vector, distance), self._at(vector, -distance)
        across = [a - b for a, b in zip(ahead, back, strict=True)]
        bent = [a + b - 2 * here for a, b, here in zip(ahead, back, self.here, strict=True)]
        bend = _norm(bent, self._group) / max(_norm(across, self._group), 1e-30)
        return bend, [piece.div_(2 * distance) for piece in across]

    def _at(self, vector: Pieces, distance: float) -> list[torch.Tensor]:
        for weight, old, scale, piece in zip(self._weights, self._kept, self._scales, vector, strict=True):
            torch.addcmul(old, scale, piece, value=distance, out=weight)
        return self._scaled()

    def _scaled(self) -> list[torch.Tensor]:
        return [scale * one for scale, one in zip(self._scales, self._gradients(), strict=True)]


def _top(diagonal: Sequence[float], beside: Sequence[float]) -> float:
    tridiagonal = np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1)
    return float(np.linalg.eigvalsh(tridiagonal)[-1])


def _dot(
    left: Sequence[torch.Tensor], right: Sequence[torch.Tensor], group: dist.ProcessGroup | None
) -> float:
    sums = [(a.double() * b.double()).sum() for a, b in zip(left, right, strict=True)]
    total = torch.stack(sums).sum()
    if group is not None:
        dist.all_reduce(total, group=group)
    return float(total)


def _norm(pieces: Sequence[torch.Tensor], group: dist.ProcessGroup | None) -> float:
    return float(squared_norms(pieces, group).sum()) ** 0.5
