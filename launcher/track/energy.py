"""Energy that this run's devices and nodes have used, from the counters that they keep themselves.

Nothing is sampled: counters are read at logged steps. Where one is missing nothing is said, never a guess.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

import torch
import torch.distributed as dist
from pydantic import TypeAdapter

from launcher.track.nvml import NvmlDevice
from launcher.world import World

POWERCAP: Final = Path("/sys/class/powercap")
"""Linux' counters of processors and memory (RAPL), of Intel and AMD; most sites let only root read them."""
_JOULES_PER_KWH: Final = 3.6e6


@final
@dataclass(slots=True, kw_only=True)
class Counter:
    """Joules since the first reading, from a counter that begins again at `wraps_at`."""

    read_j: Callable[[], float]
    wraps_at: float | None = None
    _before: float | None = None
    _total: float = 0.0

    def total_j(self) -> float:
        """Read it. Between two readings it may begin again once: at 200 W after some twenty minutes."""
        now = self.read_j()
        if self._before is not None:
            passed = now - self._before
            self._total += passed + self.wraps_at if passed < 0 and self.wraps_at is not None else passed
        self._before = now
        return self._total


@final
class EnergyMeter:
    """Of the whole run since the attempt began. All ranks together."""

    def __init__(self, counters: Sequence[Counter] | None, world: World) -> None:
        try:
            for counter in counters or ():
                counter.total_j()
        except OSError:
            counters = None
        known = all(world.gather(counters is not None, TypeAdapter(bool)))
        self._counters = counters if known else None
        self._world = world

    def kwh(self) -> float | None:
        """Of devices, processors and memory of all nodes; None where some of it is not known."""
        if self._counters is None:
            return None
        try:
            own = sum(counter.total_j() for counter in self._counters)
        except OSError:
            own = math.nan  # so that all ranks know, and none waits for this one
        total = torch.tensor(own, dtype=torch.float64, device=self._world.device)
        if self._world.size > 1:
            dist.all_reduce(total)
        joules = float(total)
        return None if math.isnan(joules) else joules / _JOULES_PER_KWH


def open_counters(world: World, gpu: NvmlDevice | None, root: Path = POWERCAP) -> list[Counter] | None:
    """This rank's: its GPU's and, of the first rank of a node, the node's. None if any cannot be read."""
    if gpu is None and world.device.type == "cuda":
        return None
    own = [] if gpu is None else [Counter(read_j=gpu.energy_j)]
    node = powercap_counters(root) if world.local_rank == 0 else []
    return None if node is None else [*own, *node]


def powercap_counters(root: Path) -> list[Counter] | None:
    """Processors' packages and their memory; None where there is none, or one cannot be read."""
    # A package's counter has its cores' in it, so of its parts only memory is added; `psys` has all of them.
    found = []
    for zone in sorted(root.glob("intel-rapl:*")):
        try:
            name = (zone / "name").read_text().strip()
            if name.startswith("package") or name == "dram":
                wraps_at = float((zone / "max_energy_range_uj").read_text()) / 1e6
                found.append(Counter(read_j=_reader(zone / "energy_uj"), wraps_at=wraps_at))
                found[-1].read_j()
        except (OSError, ValueError):
            return None
    return found or None


def _reader(path: Path) -> Callable[[], float]:
    return lambda: float(path.read_text()) / 1e6
