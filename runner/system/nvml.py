"""The driver's library of measurements (NVML), as far as it is asked. A GB10 lacks parts of it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

LIBRARY = "libnvidia-ml.so.1"
_SM_CLOCK, _GPU_TEMPERATURE = 1, 0  # nvml.h: NVML_CLOCK_SM, NVML_TEMPERATURE_GPU
Load = Callable[[str], Any]


class Device:
    """The first GPU. Every answer is None where the driver has none."""

    def __init__(self, library: Any, handle: ctypes.c_void_p) -> None:
        self._library, self._handle = library, handle

    def joules(self) -> float | None:
        """Energy since the driver was loaded."""
        used = self._asked("nvmlDeviceGetTotalEnergyConsumption", ctypes.c_ulonglong)
        return None if used is None else used / 1000

    def megahertz(self) -> int | None:
        """Clock of the multiprocessors now."""
        return self._asked("nvmlDeviceGetClockInfo", ctypes.c_uint, _SM_CLOCK)

    def celsius(self) -> int | None:
        """Temperature of the chip now."""
        return self._asked("nvmlDeviceGetTemperature", ctypes.c_uint, _GPU_TEMPERATURE)

    def reasons(self) -> int | None:
        """Why the clock is not higher, a bit for each reason (nvml.h, clocksEventReasons)."""
        new = self._asked("nvmlDeviceGetCurrentClocksEventReasons", ctypes.c_ulonglong)
        if new is not None:
            return new
        return self._asked("nvmlDeviceGetCurrentClocksThrottleReasons", ctypes.c_ulonglong)

    def _asked(self, name: str, kind: type[Any], *arguments: int) -> int | None:
        function = getattr(self._library, name, None)
        if function is None:
            return None
        value = kind()
        failed = function(self._handle, *arguments, ctypes.byref(value))
        return None if failed else int(value.value)


def first_gpu(load: Load = ctypes.CDLL) -> Device | None:
    """The first GPU of the driver; None without one."""
    try:
        library = load(LIBRARY)
    except OSError:
        return None
    handle = ctypes.c_void_p()
    if library.nvmlInit_v2() or library.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(handle)):
        return None
    return Device(library, handle)
