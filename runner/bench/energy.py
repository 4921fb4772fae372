"""Energy that the machine says it used: NVML's counter of a GPU, or RAPL's of the processor.

Each is a counter that only rises. Neither sees the whole machine: memory, disks and the power
supply are missing in both. Whether a GB10 has such a counter was not tried.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from runner.system.hardware import ROOT
from runner.system.nvml import Load, first_gpu

_RAPL = "sys/class/powercap"


@dataclass
class Meter:
    """Reads a counter whenever it is asked; `what` names it, `read` gives joules or None."""

    what: str
    read: Callable[[], float | None]
    samples: list[tuple[float, float]] = field(default_factory=list)

    def sample(self, now: float) -> None:
        """Keep what the counter says at `now`, seconds since 1970."""
        if (joules := self.read()) is not None:
            self.samples.append((now, joules))

    def joules(self, begin: float, end: float) -> float | None:
        """Used between two times; None where the samples do not reach around both."""
        first, last = (at(self.samples, when) for when in (begin, end))
        return None if first is None or last is None else last - first


def at(samples: Sequence[tuple[float, float]], when: float) -> float | None:
    """The counter at `when`, on the line between the samples before and behind it."""
    before = [sample for sample in samples if sample[0] <= when]
    behind = [sample for sample in samples if sample[0] >= when]
    if not before or not behind:
        return None
    (t0, j0), (t1, j1) = before[-1], behind[0]
    return j0 if t1 == t0 else j0 + (j1 - j0) * (when - t0) / (t1 - t0)


def meter_of(gpu: bool, root: Path = ROOT, load: Load = ctypes.CDLL) -> Meter | None:
    """The meter of the device that trains; None where it has none that can be read."""
    return nvml_meter(load) if gpu else rapl_meter(root)


def nvml_meter(load: Load) -> Meter | None:
    """Of the first GPU, since the driver was loaded."""
    device = first_gpu(load)
    if device is None or device.joules() is None:
        return None
    return Meter("the GPU alone, by NVML", device.joules)


def rapl_meter(root: Path = ROOT) -> Meter | None:
    """Of the processor's packages. The files are often root's alone."""
    counters = [
        _Counter(folder)
        for folder in sorted((root / _RAPL).glob("intel-rapl:*"))
        if _is_package(folder)
    ]
    if not counters or any(counter.read() is None for counter in counters):
        return None

    def read() -> float | None:
        values = [counter.read() for counter in counters]
        return None if None in values else sum(value for value in values if value is not None)

    return Meter("the processor's packages alone, by RAPL", read)


def _is_package(folder: Path) -> bool:
    """`intel-rapl:0`; `intel-rapl:0:1` is a part of it."""
    return folder.name.count(":") == 1


class _Counter:
    """One RAPL counter, which begins at 0 again when it is full."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._last, self._turns = folder, 0, 0

    def read(self) -> float | None:
        """Joules since some beginning."""
        try:
            now = int((self._folder / "energy_uj").read_text())
            span = int((self._folder / "max_energy_range_uj").read_text())
        except (OSError, ValueError):
            return None
        if now < self._last:
            self._turns += 1
        self._last = now
        return (now + self._turns * span) / 1e6
