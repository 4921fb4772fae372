"""Set torch up so that equal inputs give equal bytes, and refuse to work when that failed.

Variables of the process environment are decided in runner/system/determinism.py: they must be set
before torch is loaded. What only torch can do is here.
"""

from __future__ import annotations

import os
import resource
from pathlib import Path

import torch

from runner.scripts.spec import ScriptError

# ATEN_CPU_CAPABILITY -> what torch then says of itself
_CAPABILITIES = {"avx512": "AVX512", "avx2": "AVX2", "default": "DEFAULT"}


def set_up_torch() -> torch.device:
    """Deterministic algorithms, the threads and the processor cap of the environment; the device.

    Raises ScriptError E518 when the processor cap had no effect.
    """
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    check_processor_cap()
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def check_processor_cap() -> None:
    """Raise ScriptError E518 when torch does not use the instruction set that was asked for."""
    wanted = os.environ.get("ATEN_CPU_CAPABILITY")
    found = torch.backends.cpu.get_cpu_capability()
    if wanted is not None and found != _CAPABILITIES.get(wanted, wanted):
        raise ScriptError(
            f"torch computes with {found} although {wanted} was asked for:"
            " the result would not be the one of this platform",
            hint="report this with the output of `lscpu`",
            code="E518",
        )


def memory_in_use(device: torch.device) -> int:
    """Bytes: what torch holds on a GPU, else the resident size of this process."""
    if device.type == "cuda":
        return torch.cuda.memory_reserved(device)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def peak_memory(device: torch.device) -> int:
    """Bytes: the most that was in use at once since the process began."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    # Not getrusage: its peak survives exec, and so begins at the size of whoever started us.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024
