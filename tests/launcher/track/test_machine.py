"""Of all ranks' GPUs the worst is logged with its rank, and what no device counts is left out.

NVML is a fake here: this is what its library would answer, of devices that a test machine need not have.
"""

import math
from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from launcher.track.energy import Counter
from launcher.track.machine import MachineMeter, summarize
from launcher.track.nvml import READINGS, NvmlDevice
from launcher.world import World, world_on
from tests.ranks import run_ranks


class NVMLError(Exception):
    """As the library's."""


class FakeNvml(SimpleNamespace):
    """The functions that are called; `lacks` some of them, as older devices do."""

    NVMLError = NVMLError
    NVML_TEMPERATURE_GPU, NVML_CLOCK_SM, NVML_VOLATILE_ECC, NVML_MEMORY_ERROR_TYPE_UNCORRECTED = 0, 1, 0, 1

    def __init__(self, number: int, *, lacks: tuple[str, ...] = (), xids: tuple[int, ...] = ()) -> None:
        answers: dict[str, Any] = {
            "nvmlInit": None,
            "nvmlDeviceGetHandleByUUID": "handle",
            "nvmlEventSetCreate": "events",
            "nvmlDeviceRegisterEvents": None,
            "nvmlDeviceGetTotalEnergyConsumption": 5_000_000 * number,
            "nvmlDeviceGetTemperature": 60 + number,
            "nvmlDeviceGetPowerUsage": 500_000 + number,
            "nvmlDeviceGetClockInfo": 1980 - number,
            "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=90 + number),
            "nvmlDeviceGetTotalEccErrors": number,
        }
        waiting = deque(xids)

        def ask(name: str) -> Any:
            def answer(*_: object) -> Any:
                if name in lacks:
                    raise NVMLError("Not Supported")
                return answers[name]

            return answer

        def wait(events: object, timeout_ms: int) -> Any:
            assert timeout_ms == 0, "a step never waits"
            if not waiting:
                raise NVMLError("Timeout")
            return SimpleNamespace(eventData=waiting.popleft())

        functions = {name: ask(name) for name in answers} | {"nvmlEventSetWait_v2": wait}
        super().__init__(**functions, nvmlEventTypeXidCriticalError=8)


def read(world: World) -> dict[str, float] | None:
    nvml = FakeNvml(world.rank, xids=(31, 79) if world.rank == 1 else ())
    meter = MachineMeter(NvmlDevice(nvml, "GPU-0"), world)
    first, second = meter.gpus(), meter.gpus()
    assert first is not None
    assert second is not None
    assert "xid" not in second, "an error is reported once"
    return first


def test_the_hottest_and_the_slowest_of_all_ranks_are_named() -> None:
    for found in run_ranks(2, read):
        assert found == {
            "temperature_c": 61,
            "temperature_rank": 1,
            "clock_mhz": 1979,
            "clock_rank": 1,
            "xid": 79,
            "xid_rank": 1,
            "power_w": pytest.approx(1000.001),
            "ecc_errors": 1,
            "utilization_pct": 90.5,
        }


def some_rank(world: World) -> dict[str, float] | None:
    return MachineMeter(NvmlDevice(FakeNvml(7), "GPU-0") if world.rank == 1 else None, world).gpus()


def test_a_rank_whose_gpu_gives_no_answer_does_not_hide_the_others() -> None:
    for found in run_ranks(2, some_rank):
        assert found is not None
        assert (found["temperature_c"], found["temperature_rank"]) == (67, 1)


def test_what_a_device_does_not_count_is_left_out() -> None:
    lacks = ("nvmlDeviceGetTotalEccErrors", "nvmlDeviceRegisterEvents", "nvmlDeviceGetClockInfo")
    found = MachineMeter(NvmlDevice(FakeNvml(1, lacks=lacks), "GPU-0"), world_on("cpu")).gpus()
    assert found is not None
    assert found.keys() == {"temperature_c", "temperature_rank", "power_w", "utilization_pct"}
    assert summarize(torch.full((2, len(READINGS)), math.nan)) == {}


def test_without_gpus_only_the_node_is_read() -> None:
    meter = MachineMeter(None, world_on("cpu"))
    assert meter.gpus() is None
    system = meter.system()
    assert 0 < system["system_memory_usage_percentage"] < 100
    assert 0 <= system["cpu_utilization_percentage"] <= 100


def test_a_gpu_counts_its_energy_or_says_that_it_does_not() -> None:
    assert NvmlDevice(FakeNvml(1), "GPU-0").energy_j() == 5000.0
    counter = Counter(read_j=NvmlDevice(FakeNvml(2), "GPU-0").energy_j)
    assert counter.total_j() == 0.0, "from the first reading on"
    with pytest.raises(OSError, match="Not Supported"):
        NvmlDevice(FakeNvml(1, lacks=("nvmlDeviceGetTotalEnergyConsumption",)), "GPU-0").energy_j()
    with pytest.raises(OSError, match="Not Supported"):
        NvmlDevice(FakeNvml(1, lacks=("nvmlInit",)), "GPU-0")
