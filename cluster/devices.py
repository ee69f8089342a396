"""What a machine has to run processes on. Torch-free."""

import os
import re
import sys
from pathlib import Path


def visible_gpus(devices: Path = Path("/dev")) -> int:
    """GPUs of this machine that its processes may use, by their device files and CUDA_VISIBLE_DEVICES."""
    present = sum(re.fullmatch(r"nvidia\d+", path.name) is not None for path in devices.glob("nvidia*"))
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return present
    count = 0
    for name in chosen.split(","):
        if name.strip() in ("", "-1"):  # CUDA reads no further
            break
        count += 1
    return min(present, count)


def usable_cpus() -> int:
    """CPUs that this process may use, by its affinity and its control group's quota."""
    cpus = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    found = [(path.read_text() if path.exists() else "") for path in _QUOTAS]
    return max(1, min(cpus, quota_cpus(*found) or cpus))


_QUOTAS = [
    Path("/sys/fs/cgroup") / name
    for name in ("cpu.max", "cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")  # version 2, version 1
]


def quota_cpus(cpu_max: str, quota_us: str, period_us: str) -> int | None:
    """CPUs that a container's quota is worth, from its control group's files; None without a quota."""
    # A container may see 64 CPUs and use two of them: 64 threads would stand in each other's way.
    quota, period = cpu_max.split() if len(cpu_max.split()) == 2 else (quota_us.strip(), period_us.strip())
    if not quota.isdigit() or not period.isdigit():  # "max", "-1", or no such file
        return None
    return max(1, int(quota) // int(period))
