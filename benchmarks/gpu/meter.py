"""The most memory that a phase took, of a GPU or of this process."""

from __future__ import annotations

from pathlib import Path

import torch

from runner.scripts.training.base_model import shares_memory


class Meter:
    """`phases`: name -> bytes. `tensors` is what torch's allocator gave away at most, `reserved`
    what it held, `in_use` that and what the process takes beside it (context, libraries).

    On a GPU that nobody else uses `in_use` is what the driver shows. Where the GPU shares the
    machine's memory it is what became unavailable since `available`, the host's part with it.
    """

    def __init__(self, device: torch.device, available: int) -> None:
        self._device, self._available = device, available
        self.phases: dict[str, dict[str, int]] = {}
        self.begin()

    def begin(self) -> None:
        """What was the most so far counts no more."""
        if self._device.type == "cpu":
            Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
        else:
            torch.cuda.reset_peak_memory_stats(self._device)

    def end(self, phase: str) -> None:
        """What was since the beginning was `phase`. The next one is still to be begun."""
        self.phases[phase] = self._host() if self._device.type == "cpu" else self._gpu()

    def _host(self) -> dict[str, int]:
        status = Path("/proc/self/status").read_text()
        return {"in_use": int(status.split("VmHWM:")[1].split()[0]) * 1024}

    def _gpu(self) -> dict[str, int]:
        reserved = torch.cuda.max_memory_reserved(self._device)
        return {
            "tensors": torch.cuda.max_memory_allocated(self._device),
            "reserved": reserved,
            "in_use": reserved + self._beside(),
        }

    def _beside(self) -> int:
        held = torch.cuda.memory_reserved(self._device)
        if shares_memory(self._device):
            return max(0, self._available - available_memory() - held)
        free, total = torch.cuda.mem_get_info(self._device)
        return max(0, total - free - held)


def available_memory() -> int:
    """Bytes: MemAvailable of the machine."""
    text = Path("/proc/meminfo").read_text(encoding="ascii")
    return int(text.split("MemAvailable:")[1].split()[0]) * 1024
