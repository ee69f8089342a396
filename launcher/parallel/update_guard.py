"""Whether an update is applied, decided on the device from the reduced gradient alone.

The host never waits for work of the current step: what it must know of the step before travels with the count
of targets, which all ranks reduce together at the start of every step.
"""

from dataclasses import dataclass
from typing import final

import torch
import torch.distributed as dist

from launcher.guard.config import OutlierConfig
from launcher.world import World


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Agreed:
    """What all ranks know alike at the same step."""

    stop: bool
    """Whether any rank had been asked to stop when the step began."""
    skips_in_row: int
    skips: int
    """In the whole run."""
    bad_losses: int
    """Ranks whose loss was not finite."""


@final
class UpdateGuard:
    """Skips updates of a gradient that is not finite or, if asked to, far above those of the last steps."""

    # Every rank has the same norm, so all decide alike without another message. A rank's own loss decides
    # nothing: it may be infinite where its gradients are finite, and under DDP it is never reduced.

    def __init__(self, outliers: OutlierConfig | None, world: World) -> None:
        device = world.device
        self._world = world
        self._outliers = outliers
        self._skips = torch.zeros(2, dtype=torch.int64, device=device)  # in a row, in all
        self._bad_loss = torch.zeros(1, dtype=torch.float64, device=device)
        self._window = None if outliers is None else torch.zeros(outliers.window, device=device)
        self._seen = torch.zeros((), dtype=torch.int64, device=device)
        pinned = device.type == "cuda"
        # In pinned memory copies do not wait. `agreed` waits for those of a step before the next one writes.
        self._own = torch.zeros(2, dtype=torch.float64, pin_memory=pinned)
        self._known = torch.zeros(4, dtype=torch.float64, pin_memory=pinned)
        self._copied = torch.cuda.Event() if pinned else None

    def begin(self, targets: torch.Tensor, *, stop: bool) -> torch.Tensor:
        """The number of targets over all ranks, reduced together with what ranks must agree on."""
        self._own[0].copy_(targets)
        self._own[1].fill_(stop)
        sums = torch.cat([self._own.to(self._world.device, non_blocking=True), self._bad_loss])
        if self._world.size > 1:
            dist.all_reduce(sums)
        # From the device to pinned memory: `known` is whole once the steps before this one are done.
        self._known.copy_(torch.cat([sums[1:], self._skips.double()]), non_blocking=True)
        if self._copied is not None:
            self._copied.record()
        return sums[0].float()

    @torch.no_grad()
    def decide(self, norm: torch.Tensor, loss: torch.Tensor) -> torch.Tensor:
        """1.0 where the update is to be skipped, else 0.0: what torch's optimizers call `found_inf`."""
        skip = ~norm.isfinite()
        if self._window is not None:
            skip |= self._is_outlier(norm.to(self._window.device))
        skip = skip.to(self._skips.device)
        self._skips[0] = torch.where(skip, self._skips[0] + 1, 0)
        self._skips[1] += skip
        self._bad_loss.copy_(~loss.isfinite())
        return skip.to(norm.device, torch.float32)

    def _is_outlier(self, norm: torch.Tensor) -> torch.Tensor:
        """Compare with the norms in the window, once it is full; one that passes takes the oldest place."""
        assert self._window is not None, "asked for"
        assert self._outliers is not None, "asked for"
        size = self._window.numel()
        middle = self._window.median()
        spread = (self._window - middle).abs().median()
        # A spread of nothing, as of constant norms, would make the next rounding error an outlier.
        limit = middle + self._outliers.factor * torch.maximum(spread, 0.01 * middle)
        outlier = (self._seen >= size) & (norm > limit)
        taken = norm.isfinite() & ~outlier
        place = torch.arange(size, device=norm.device) == self._seen % size
        self._window.copy_(torch.where(place & taken, norm, self._window))
        self._seen += taken
        return outlier

    def agreed(self) -> Agreed:
        """As of the start of the current step; waits for the steps before it, not for this one."""
        if self._copied is not None:
            self._copied.synchronize()
        stops, bad, in_row, total = (int(value) for value in self._known.tolist())
        return Agreed(stop=stops > 0, skips_in_row=in_row, skips=total, bad_losses=bad)

    def settled(self) -> Agreed:
        """As of now; waits for the current step."""
        in_row, total = self._skips.tolist()
        return Agreed(stop=self.agreed().stop, skips_in_row=in_row, skips=total, bad_losses=0)

    def forget_row(self) -> None:
        """After a rollback: a new row of skips starts from nothing."""
        self._skips[0] = 0
        self._bad_loss.zero_()

    def state(self) -> dict[str, torch.Tensor]:
        """What a checkpoint keeps, live, keyed `guard/NAME`."""
        found = {"guard/skips": self._skips}
        if self._window is not None:
            found |= {"guard/window": self._window, "guard/seen": self._seen}
        return found
