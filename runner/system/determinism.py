"""The process environment of every script, and the names of what its numbers still depend on.

This is the one place where it is decided. All of it is hashed: it is set before Python starts,
since libraries read it when they are loaded. The measurements behind the processor cap are in
docs/decisions/0001-processor-cap-and-equal-adapters.md. Standard library only.
"""

from __future__ import annotations

import functools
import platform
import re
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_VENDORS = {"GenuineIntel": "intel", "AuthenticAMD": "amd", "HygonGenuine": "hygon"}
_MAX_THREADS = 16  # more threads than this slow small matrix products down

_PYTHON = {
    "PYTHONHASHSEED": "0",  # sets of module names are iterated while adapters are made
    "PYTHONNOUSERSITE": "1",
    "PYTHONUTF8": "1",
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
}
_OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "WANDB_MODE": "disabled",
}
_TORCH = {
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    "FLASH_ATTENTION_DETERMINISTIC": "1",
    "TORCHDYNAMO_DISABLE": "1",  # a compiled kernel adds in an order of its own
    "TOKENIZERS_PARALLELISM": "false",
    "TRL_EXPERIMENTAL_SILENCE": "1",
}
# What caps an x86 processor. Without AVX2 there is nothing newer to cap.
_CAPS = {
    "avx2": {
        "ATEN_CPU_CAPABILITY": "avx2",  # torch's own kernels
        "MKL_CBWR": "AVX2,STRICT",  # float32 matrix products, on Intel's processors only
        "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16",  # matrix products in bfloat16: see bfloat16_path
        "OPENBLAS_CORETYPE": "Haswell",  # numpy
    },
    "sse2": {
        "ATEN_CPU_CAPABILITY": "default",
        "MKL_CBWR": "COMPATIBLE",
        "OPENBLAS_CORETYPE": "Prescott",
    },
}


def script_env(threads: int) -> dict[str, str]:
    """Every variable that decides bytes, for a script that computes with `threads` threads."""
    return {**_PYTHON, **_OFFLINE, **_TORCH, **_thread_env(threads), **_processor_cap()}


def thread_count(available_cpus: int) -> int:
    """How many threads scripts use on a machine that offers this many processors."""
    return max(1, min(available_cpus, _MAX_THREADS))


@functools.cache
def instruction_set() -> str:
    """What float32 results on this processor depend on: `avx2-intel`, `avx2-amd`, `arm64-41-d85`.

    On x86 the cap makes newer instruction sets give the bytes of AVX2. The maker stays part of the
    name: MKL takes another path on processors that are not Intel's, and cannot be told otherwise
    without losing more than half of its speed.
    """
    if _is_x86():
        return f"{_x86_level()}-{_x86_vendor()}"
    text = _cpuinfo()
    implementers = sorted(set(re.findall(r"^CPU implementer\s*: 0x(\w+)", text, re.MULTILINE)))
    parts = sorted(set(re.findall(r"^CPU part\s*: 0x(\w+)", text, re.MULTILINE)))
    machine = {"aarch64": "arm64"}.get(platform.machine(), platform.machine() or "unknown")
    return "-".join([machine, *implementers, *parts])


@functools.cache
def bfloat16_path() -> str:
    """What bfloat16 results on an x86 processor depend on beside `instruction_set`; "" elsewhere.

    oneDNN multiplies in bfloat16 only with AVX-512; capped to AVX2 it would be a hundred times
    slower, so there the cap is AVX512_CORE_BF16, and processors with less are platforms of their
    own for recipes that compute in bfloat16.
    """
    if not _is_x86():
        return ""
    flags = _x86_flags()
    if not {"avx512bw", "avx512vl", "avx512dq"} <= flags:
        return "avx2-ne-convert" if "avx_ne_convert" in flags else "reference"
    return "avx512-bf16" if "avx512_bf16" in flags else "avx512"


def _thread_env(threads: int) -> dict[str, str]:
    count = str(threads)
    return {
        "OMP_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "OPENBLAS_NUM_THREADS": count,
        "OMP_WAIT_POLICY": "PASSIVE",  # on a shared machine, spinning threads starve the others
        "OMP_DYNAMIC": "FALSE",  # never fewer threads because the machine is busy
        "MKL_DYNAMIC": "FALSE",
    }


def _processor_cap() -> dict[str, str]:
    return dict(_CAPS[_x86_level()]) if _is_x86() else {}


def _is_x86() -> bool:
    return platform.machine().lower() in ("x86_64", "amd64")


def _x86_level() -> str:
    return "avx2" if {"avx2", "fma"} <= _x86_flags() else "sse2"


def _x86_vendor() -> str:
    found = re.search(r"^vendor_id\s*: (\S+)", _cpuinfo(), re.MULTILINE)
    name = found.group(1) if found else "unknown"
    return _VENDORS.get(name, name.lower())


def _x86_flags() -> set[str]:
    found = re.search(r"^flags\s*:(.*)$", _cpuinfo(), re.MULTILINE)
    return set(found.group(1).split()) if found else set()


@functools.cache
def _cpuinfo() -> str:
    try:
        return _CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
