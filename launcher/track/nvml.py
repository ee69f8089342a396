"""What a GPU says of itself, through NVIDIA's management library. The door to nvidia-ml-py.

Only where that is installed. What a device does not count is NaN; nothing here raises anything but OSError.
"""

import math
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, Final, final

import torch

READINGS: Final = ("temperature_c", "power_w", "clock_mhz", "utilization_pct", "ecc_errors", "xid")
"""Clock is that of the SMs; ECC errors are those not corrected since the driver was loaded; XID is that of an
error since the last reading, else 0."""


@final
class NvmlDevice:
    """One GPU."""

    def __init__(self, nvml: Any, uuid: str) -> None:
        self._nvml = nvml
        try:
            nvml.nvmlInit()
            self._handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
        except nvml.NVMLError as error:
            raise OSError(str(error)) from None
        self._events = self._open_events()

    def energy_j(self) -> float:
        """Since the driver was loaded; of Volta and later."""
        try:
            return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1000.0
        except self._nvml.NVMLError as error:
            raise OSError(str(error)) from None

    def readings(self) -> list[float]:
        """READINGS, as it is now."""
        nvml, handle = self._nvml, self._handle
        questions: list[Callable[[], float]] = [
            lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
            lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000.0,
            lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
            lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu,
            lambda: nvml.nvmlDeviceGetTotalEccErrors(
                handle, nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC
            ),
            self._last_xid,
        ]
        return [self._ask(question) for question in questions]

    def _ask(self, question: Callable[[], float]) -> float:
        try:
            return float(question())
        except self._nvml.NVMLError:
            return math.nan

    def _open_events(self) -> Any:
        nvml = self._nvml
        try:
            events = nvml.nvmlEventSetCreate()
            nvml.nvmlDeviceRegisterEvents(self._handle, nvml.nvmlEventTypeXidCriticalError, events)
        except nvml.NVMLError:
            return None
        return events

    def _last_xid(self) -> float:
        found = math.nan if self._events is None else 0.0
        while self._events is not None:
            try:
                found = float(self._nvml.nvmlEventSetWait_v2(self._events, 0).eventData)
            except self._nvml.NVMLError:  # a time-out: there is no other
                break
        return found


def open_nvml(device: torch.device) -> NvmlDevice | None:
    """This rank's; None on a CPU, or where nobody can be asked."""
    if device.type != "cuda" or find_spec("pynvml") is None:
        return None
    import pynvml

    try:
        return NvmlDevice(pynvml, f"GPU-{torch.cuda.get_device_properties(device).uuid}")
    except OSError:
        return None
