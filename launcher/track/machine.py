"""How devices and the first node are, at logged steps: temperature, power, clock, errors, load.

A GPU that is hot or slow holds up all others, so of all ranks' the worst is logged, and whose it is.
"""

from typing import final

import psutil
import torch
from pydantic import TypeAdapter

from launcher.parallel.across import across_ranks
from launcher.track.nvml import READINGS, NvmlDevice
from launcher.world import World

Numbers = dict[str, float]


@final
class MachineMeter:
    """All ranks together."""

    def __init__(self, gpu: NvmlDevice | None, world: World) -> None:
        self._gpu = gpu
        self._world = world
        self._known = any(world.gather(gpu is not None, TypeAdapter(bool)))
        psutil.cpu_percent()  # the next is since this one

    def system(self) -> Numbers:
        """This node's, by the names under which MLflow shows them."""
        memory = psutil.virtual_memory()
        return {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_percentage": memory.percent,
            "system_memory_usage_megabytes": round(memory.used / 1e6, 1),
        }

    def gpus(self) -> Numbers | None:
        """Of all ranks' GPUs; None where none can be asked."""
        if not self._known:
            return None
        own = [float("nan")] * len(READINGS) if self._gpu is None else self._gpu.readings()
        row = torch.tensor(own, dtype=torch.float64, device=self._world.device)
        return summarize(across_ranks(self._world).gather(row[None]).cpu())


def summarize(readings_RN: torch.Tensor) -> Numbers:
    """Of R ranks' N readings; those that no rank has are left out."""
    columns = dict(zip(READINGS, readings_RN.unbind(1), strict=True))
    found: Numbers = {}
    for name, sign in (("temperature_c", 1.0), ("clock_mhz", -1.0), ("xid", 1.0)):
        worst = (sign * columns[name]).nan_to_num(nan=-torch.inf)
        rank = int(worst.argmax())
        if worst[rank] > -torch.inf and (name != "xid" or worst[rank] > 0):
            found |= {name: float(columns[name][rank]), f"{name.partition('_')[0]}_rank": rank}
    for name, reduce in (
        ("power_w", torch.nansum),
        ("ecc_errors", torch.nansum),
        ("utilization_pct", torch.nanmean),
    ):
        if not columns[name].isnan().all():
            found[name] = float(reduce(columns[name]))
    return found
