"""Whether a GPU had to slow down while it computed: its clock, its temperature, and why."""

from __future__ import annotations

import ctypes
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from runner.system.nvml import Device, Load, first_gpu

SECONDS = 2.0  # between two looks
# nvml.h: bits of the reasons why a clock is not higher. That nothing was to be done, or that
# somebody set the clock, slows nothing down.
REASONS = {"heat": 0x20 | 0x40, "power": 0x4 | 0x80, "the board": 0x8}


@dataclass
class Watch:
    """Looks at a GPU whenever it is asked and enough time has gone by; `now` in seconds."""

    device: Device
    clock: Callable[[], float]
    _next: float = 0.0
    _looks: int = 0
    _slowed: dict[str, int] = field(default_factory=dict)
    _megahertz: list[int] = field(default_factory=list)
    _celsius: int | None = None

    def look(self) -> None:
        """Once every SECONDS."""
        now = self.clock()
        if now < self._next:
            return
        self._next = now + SECONDS
        bits = self.device.reasons()
        if bits is None:
            return
        self._looks += 1
        for reason, mask in REASONS.items():
            if bits & mask:
                self._slowed[reason] = self._slowed.get(reason, 0) + 1
        if (megahertz := self.device.megahertz()) is not None:
            self._megahertz.append(megahertz)
        if (celsius := self.device.celsius()) is not None:
            self._celsius = max(celsius, self._celsius or celsius)

    def measures(self) -> dict[str, Any]:
        """For run.json: `slowed`, reason -> part of the time, and what clock and heat were."""
        if not self._looks:
            return {}
        found: dict[str, Any] = {
            "slowed": {name: count / self._looks for name, count in sorted(self._slowed.items())}
        }
        if self._megahertz:
            found["megahertz_lowest"] = min(self._megahertz)
            found["megahertz_median"] = statistics.median(self._megahertz)
        if self._celsius is not None:
            found["celsius_highest"] = self._celsius
        return {"gpu_health": found}


def watch(clock: Callable[[], float], load: Load = ctypes.CDLL) -> Watch | None:
    """Of the first GPU; None where there is none that can be asked."""
    device = first_gpu(load)
    return None if device is None else Watch(device, clock)


def in_words(health: dict[str, Any] | None) -> str | None:
    """A line where the GPU was slower than it could be; None where it was not, or nobody looked."""
    slowed = (health or {}).get("slowed")
    if not health or not slowed:
        return None
    parts = ", ".join(f"{part:.0%} of the time for {reason}" for reason, part in slowed.items())
    more = ""
    if "megahertz_lowest" in health:
        more = f"; {health['megahertz_lowest']} MHz at the lowest"
    if "celsius_highest" in health:
        more += f", {health['celsius_highest']} °C at the highest"
    return f"GPU slowed down   {parts}{more}"
