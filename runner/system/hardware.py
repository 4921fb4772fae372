"""Facts about this machine, read from the kernel; neither torch nor NVML is asked.

NVML cannot tell memory on a GB10, where GPU and CPU share it, and sees GPUs that a container does
not have; /proc and /dev say what is true. Every reader takes the `root` it reads below, so that
tests can show it other machines.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path("/")

_UNIFIED = ("GB10", "GB200", "GH200")  # GPUs that share the processor's memory
_VENDORS = {"GenuineIntel": "intel", "AuthenticAMD": "amd", "0x41": "arm", "0x4e": "nvidia"}
_INSTRUCTION_SETS = (
    *("sse4_2", "avx", "avx2", "fma", "f16c"),
    *("avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16", "amx_bf16"),
    *("asimd", "asimdhp", "asimddp", "sve", "sve2", "bf16", "i8mm"),
)


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes. `total` is what this process may use at most, `available` what it can have now."""

    total: int
    available: int


@dataclass(frozen=True, slots=True)
class Gpu:
    """One NVIDIA GPU that this process can open."""

    name: str
    driver: str


def available_cpus(root: Path = ROOT) -> int:
    """Processors that this process may keep busy: its affinity, cut by cgroup quotas (v1, v2)."""
    quotas = [_cpu_quota(folder) for folder in cgroup_folders(root, "cpu")]
    return max(1, int(min([len(os.sched_getaffinity(0)), *quotas])))


def memory(root: Path = ROOT) -> Memory:
    """Memory of the machine, cut by the limits of this process's cgroups (v1, v2).

    Page cache counts as available, as in MemAvailable: the kernel gives it back.
    """
    facts = meminfo(root)
    total, available = facts["MemTotal"], facts["MemAvailable"]
    for folder in cgroup_folders(root, "memory"):
        limit = _number(folder / "memory.max") or _number(folder / "memory.limit_in_bytes")
        used = _number(folder / "memory.current") or _number(folder / "memory.usage_in_bytes")
        if limit is None or limit >= total:
            continue
        total = limit
        reclaimable = _cached(folder / "memory.stat")
        available = min(available, limit - max(0, (used or 0) - reclaimable))
    return Memory(total, max(0, min(total, available)))


def disk_free(path: Path) -> int:
    """Bytes that may still be written at `path`, or where it would be made."""
    return shutil.disk_usage(_existing(path)).free


def device_of(path: Path) -> int:
    """Number of the file system that `path` lies on, or would be made on."""
    return _existing(path).stat().st_dev


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def cpu_vendor(root: Path = ROOT) -> str:
    """`intel`, `amd`, `arm`, `nvidia`, or the kernel's own word."""
    facts = _cpuinfo(root)
    word = facts.get("vendor_id") or facts.get("CPU implementer") or "unknown"
    return _VENDORS.get(word, _slug(word))


def instruction_sets(root: Path = ROOT) -> tuple[str, ...]:
    """Those of the processor that change how floating-point kernels compute, in a fixed order."""
    facts = _cpuinfo(root)
    flags = set((facts.get("flags") or facts.get("Features") or "").split())
    return tuple(name for name in _INSTRUCTION_SETS if name in flags)


def gpus(root: Path = ROOT) -> tuple[Gpu, ...]:
    """The NVIDIA GPUs that this process can open; empty in a container that was given none.

    /proc shows the host's GPUs in every container, so the device files decide.
    """
    devices = [path for path in (root / "dev").glob("nvidia*") if path.name[6:].isdigit()]
    if devices:
        driver = _driver(root)
        names = [_gpu_name(file) for file in _gpu_files(root)][: len(devices)]
        if names:
            return tuple(Gpu(name, driver) for name in names)
    if devices or (root / "dev/dxg").exists():  # dxg: the one GPU door of WSL
        return _ask_nvidia_smi()
    return ()


def shares_memory(gpu: str) -> bool:
    """Does a GPU of this name take its memory from the processor's?"""
    return any(word in gpu for word in _UNIFIED)


def gpu_users() -> list[tuple[int, str, str]]:
    """Process id, name and memory, in the driver's words (`[N/A]` on a GB10), of who computes."""
    rows = (line.rsplit(",", 1) for line in _nvidia_smi("compute-apps=pid,name,used_memory"))
    found = []
    for row in rows:
        number, _, name = row[0].partition(",")
        if len(row) == 2 and number.strip().isdigit():
            found.append((int(number), name.strip(), row[1].strip()))
    return found


def gpu_memory() -> int:
    """Bytes of the first GPU's own memory, as its driver says; 0 where it does not (GB10)."""
    lines = _nvidia_smi("gpu=memory.total")
    size = lines[0].split()[0] if lines and lines[0].split() else ""
    return int(size) << 20 if size.isdigit() else 0


def platform_facts(*, threads: int, torch_version: str, instruction_set: str) -> dict[str, Any]:
    """What a claim of equal bytes depends on, with its short `name`, fit for a file name.

    With a GPU: its model, driver and torch. Without: the processor's architecture, vendor and
    capped instruction set, the threads, and torch.
    """
    found = gpus()
    facts: dict[str, Any]
    if found:
        facts = {"device": "cuda", "gpus": [gpu.name for gpu in found], "driver": found[0].driver}
    else:
        facts = {
            "device": "cpu",
            "machine": platform.machine(),
            "vendor": cpu_vendor(),
            "instruction_set": instruction_set,
            "threads": threads,
        }
    facts["torch"] = torch_version
    return {"name": platform_id(facts), **facts}


def platform_id(facts: dict[str, Any]) -> str:
    """The short name: `cpu-x86_64-intel-avx2-t2-torch2.13.0`, `cuda-nvidia-gb10-580.95-torch…`."""
    if facts["device"] == "cuda":
        names = facts["gpus"]
        many = f"-x{len(names)}" if len(names) > 1 else ""
        device = f"cuda-{_slug(names[0])}{many}-{facts['driver']}"
    else:
        kind = f"{facts['machine']}-{facts['vendor']}-{_slug(facts['instruction_set'])}"
        device = f"cpu-{kind}-t{facts['threads']}"
    return f"{device}-torch{facts['torch']}"


def hardware_facts() -> dict[str, Any]:
    """Everything about the machine that a reader of run.json may want to know. JSON data."""
    return {
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "processor": _cpuinfo(ROOT).get("model name", ""),
        "vendor": cpu_vendor(),
        "instruction_sets": list(instruction_sets()),
        "cpus": available_cpus(),
        "memory": asdict(memory()),
        "gpus": [asdict(gpu) for gpu in gpus()],
    }


def cgroup_folders(root: Path, controller: str) -> Iterator[Path]:
    """The cgroup of this process and those above it, in v2 and in v1's tree of `controller`.

    Every limit on the way up counts. Inside a container the way may begin at the mount itself.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    base = root / "sys/fs/cgroup"
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        mount = base / controller if controllers else base
        inside = Path(path.lstrip("/"))
        yield from (mount / step for step in (inside, *inside.parents) if (mount / step).is_dir())


def _cpu_quota(folder: Path) -> float:
    """Processors that the quota of one cgroup allows; infinite without one."""
    try:
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text()
            period = (folder / "cpu.cfs_period_us").read_text()
        return int(quota) / int(period) if int(quota) > 0 else float("inf")
    except (OSError, ValueError):  # "max" in v2
        return float("inf")


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):  # absent, or "max"
        return None


def _cached(file: Path) -> int:
    """Bytes of page cache charged to a cgroup that the kernel would give back."""
    try:
        facts = dict(line.split() for line in file.read_text().splitlines())
    except (OSError, ValueError):
        return 0
    # v1 names the sum over the groups below total_*; v2's own names are sums already.
    names = ("total_inactive_file", "total_active_file")
    if names[0] not in facts:
        names = ("inactive_file", "active_file")
    return sum(int(facts.get(name, 0)) for name in names)


def meminfo(root: Path = ROOT) -> dict[str, int]:
    """Bytes by the kernel's names: MemTotal, MemFree, MemAvailable, Cached, SwapTotal, …"""
    lines = (line.split() for line in (root / "proc/meminfo").read_text().splitlines())
    return {name.rstrip(":"): int(value) * 1024 for name, value, *_ in lines}


def _cpuinfo(root: Path) -> dict[str, str]:
    """What /proc/cpuinfo says about the first processor."""
    first = (root / "proc/cpuinfo").read_text().split("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _gpu_files(root: Path) -> list[Path]:
    return sorted((root / "proc/driver/nvidia/gpus").glob("*/information"))


def _gpu_name(file: Path) -> str:
    found = re.search(r"^Model:\s*(.+?)\s*$", file.read_text(), re.MULTILINE)
    return found.group(1) if found else "unknown"


def _driver(root: Path) -> str:
    for place in ("sys/module/nvidia/version", "proc/driver/nvidia/version"):
        try:
            text = (root / place).read_text()
        except OSError:
            continue
        if found := re.search(r"\b\d{3,}\.\d+(\.\d+)?\b", text):
            return found.group(0)
    return "unknown"


def _ask_nvidia_smi() -> tuple[Gpu, ...]:
    """Name and driver only: memory is `[N/A]` on a GB10."""
    lines = (line.rpartition(",") for line in _nvidia_smi("gpu=name,driver_version") if "," in line)
    return tuple(Gpu(name.strip(), driver.strip()) for name, _, driver in lines)


def _nvidia_smi(asked: str) -> list[str]:
    """A line a GPU, or a process; none where there is no such program or it fails."""
    command = ["nvidia-smi", f"--query-{asked}", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return answer.stdout.splitlines()


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")
