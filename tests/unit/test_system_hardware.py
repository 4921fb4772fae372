"""Facts about machines that are not this one: trees of /proc, /sys and /dev made on the fly."""

from __future__ import annotations

import os
import platform
import stat
from collections.abc import Mapping
from pathlib import Path

import pytest

from runner.system import hardware
from runner.system.hardware import Gpu, available_cpus, cpu_vendor, gpus, instruction_sets, memory

GIB = 1 << 30
MEMINFO = "MemTotal:  134217728 kB\nMemFree: 1048576 kB\nMemAvailable:   100663296 kB\n"
SPARK_CPU = """processor\t: 0
Features\t: fp asimd aes sha2 asimdhp asimddp sve sve2 i8mm bf16
CPU implementer\t: 0x41
CPU part\t: 0xd85

processor\t: 1
Features\t: fp
"""
AMD_CPU = "processor : 0\nvendor_id : AuthenticAMD\nmodel name: EPYC\nflags : fpu avx avx2 fma\n"


def machine(root: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("cpuinfo", "vendor", "sets"),
    [
        (SPARK_CPU, "arm", ("asimd", "asimdhp", "asimddp", "sve", "sve2", "bf16", "i8mm")),
        (AMD_CPU, "amd", ("avx", "avx2", "fma")),
        ("processor : 0\nvendor_id : Some Thing\n", "some-thing", ()),
    ],
)
def test_the_first_processor_speaks_for_all(
    tmp_path: Path, cpuinfo: str, vendor: str, sets: tuple[str, ...]
) -> None:
    root = machine(tmp_path, {"proc/cpuinfo": cpuinfo})
    assert cpu_vendor(root) == vendor
    assert instruction_sets(root) == sets


V1 = "4:memory:/docker/x\n1:cpu,cpuacct:/docker/x\n0::/\n"
V2 = "0::/user.slice/job\n"


@pytest.mark.parametrize(
    ("files", "total", "available"),
    [
        ({}, 128, 96),
        # v2: the narrowest limit on the way up counts, and cache can be taken back.
        (
            {
                "proc/self/cgroup": V2,
                "sys/fs/cgroup/user.slice/job/memory.max": "max\n",
                "sys/fs/cgroup/user.slice/memory.max": str(32 * GIB),
                "sys/fs/cgroup/user.slice/memory.current": str(20 * GIB),
                "sys/fs/cgroup/user.slice/memory.stat": f"anon 1\ninactive_file {4 * GIB}\n"
                f"active_file {1 * GIB}\n",
            },
            32, 17,
        ),
        # v1, and the group above allows more.
        (
            {
                "proc/self/cgroup": V1,
                "sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes": str(8 * GIB),
                "sys/fs/cgroup/memory/docker/x/memory.usage_in_bytes": str(7 * GIB),
                "sys/fs/cgroup/memory/docker/x/memory.stat": f"inactive_file 5\n"
                f"total_inactive_file {2 * GIB}\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": str(16 * GIB),
                "sys/fs/cgroup/memory/memory.usage_in_bytes": str(9 * GIB),
            },
            8, 3,
        ),
        # v1 writes "no limit" as a huge number.
        (
            {
                "proc/self/cgroup": V1,
                "sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes": "9223372036854771712\n",
            },
            128, 96,
        ),
        # In a container the path of the host may not exist: its own group is the mount itself.
        (
            {
                "proc/self/cgroup": "0::/../../elsewhere\n",
                "sys/fs/cgroup/memory.max": str(4 * GIB),
                "sys/fs/cgroup/memory.current": str(1 * GIB),
            },
            4, 3,
        ),
        # A group that has used up everything.
        (
            {
                "proc/self/cgroup": V2,
                "sys/fs/cgroup/user.slice/memory.max": str(2 * GIB),
                "sys/fs/cgroup/user.slice/memory.current": str(3 * GIB),
            },
            2, 0,
        ),
    ],
    ids=["bare", "v2", "v1", "v1-unlimited", "v2-container", "used-up"],
)  # fmt: skip
def test_memory_is_what_this_process_may_have(
    tmp_path: Path, files: dict[str, str], total: int, available: int
) -> None:
    found = memory(machine(tmp_path, {"proc/meminfo": MEMINFO, **files}))
    assert (found.total / GIB, found.available / GIB) == (total, available)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8),
        ({"proc/self/cgroup": V2, "sys/fs/cgroup/user.slice/job/cpu.max": "max 100000\n"}, 8),
        ({"proc/self/cgroup": V2, "sys/fs/cgroup/user.slice/cpu.max": "350000 100000\n"}, 3),
        ({"proc/self/cgroup": V2, "sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
        (
            {
                "proc/self/cgroup": V1,
                "sys/fs/cgroup/cpu/docker/x/cpu.cfs_quota_us": "200000\n",
                "sys/fs/cgroup/cpu/docker/x/cpu.cfs_period_us": "100000\n",
            },
            2,
        ),
        (
            {
                "proc/self/cgroup": V1,
                "sys/fs/cgroup/cpu/docker/x/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/docker/x/cpu.cfs_period_us": "100000\n",
            },
            8,
        ),
    ],
    ids=["bare", "v2-max", "v2-parent", "v2-half", "v1", "v1-unlimited"],
)
def test_cpus_are_those_this_process_may_use(
    tmp_path: Path, files: dict[str, str], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    assert available_cpus(machine(tmp_path, files)) == expected


def test_affinity_counts_on_the_real_machine() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert available_cpus() == 1
    finally:
        os.sched_setaffinity(0, before)


GB10 = {
    "dev/nvidia0": "", "dev/nvidiactl": "", "dev/nvidia-uvm": "", "dev/nvidia-modeset": "",
    "proc/driver/nvidia/gpus/000f:01:00.0/information":
        "Model: \t\t NVIDIA GB10\nIRQ:   \t\t 130\nGPU UUID: \t GPU-1\n",
    "sys/module/nvidia/version": "580.95.05\n",
}  # fmt: skip
VERSION_2 = "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  580.95.05  Release Build\n"


def test_a_spark_has_one_gpu() -> None:
    """The name for a file, as the platform of a Spark would have it."""
    facts = {
        "device": "cuda", "gpus": ["NVIDIA GB10"], "driver": "580.95.05", "torch": "2.13.0",
    }  # fmt: skip
    assert hardware.platform_id(facts) == "cuda-nvidia-gb10-580.95.05-torch2.13.0"
    facts["gpus"] = ["NVIDIA H100 80GB HBM3"] * 2
    assert hardware.platform_id(facts) == ("cuda-nvidia-h100-80gb-hbm3-x2-580.95.05-torch2.13.0")


def test_gpus_are_found_without_asking_nvml(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus(machine(tmp_path, GB10)) == (Gpu("NVIDIA GB10", "580.95.05"),)
    (tmp_path / "sys/module/nvidia/version").unlink()
    machine(tmp_path, {"proc/driver/nvidia/version": VERSION_2})
    assert gpus(tmp_path) == (Gpu("NVIDIA GB10", "580.95.05"),)


def test_a_container_without_a_gpu_sees_the_hosts_proc_but_has_none(tmp_path: Path) -> None:
    files = {name: text for name, text in GB10.items() if not name.startswith("dev/")}
    assert gpus(machine(tmp_path, files)) == ()


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("printf 'NVIDIA GB10, 580.95.05\\n'", (Gpu("NVIDIA GB10", "580.95.05"),)),
        ("echo 'NVIDIA-SMI has failed'; exit 9", ()),
    ],
)
def test_where_proc_is_silent_nvidia_smi_is_asked(
    tmp_path: Path, answer: str, expected: tuple[Gpu, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bin" / "nvidia-smi"
    machine(tmp_path, {"bin/nvidia-smi": f"#!/bin/sh\n{answer}\n", "dev/dxg": ""})
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    assert gpus(tmp_path) == expected


def test_the_platform_of_a_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "gpus", lambda: ())
    monkeypatch.setattr(hardware, "cpu_vendor", lambda: "intel")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    facts = hardware.platform_facts(threads=2, torch_version="2.13.0", instruction_set="avx2")
    assert facts.pop("name") == "cpu-x86_64-intel-avx2-t2-torch2.13.0"
    assert facts == {
        "device": "cpu", "machine": "x86_64", "vendor": "intel",
        "instruction_set": "avx2", "threads": 2, "torch": "2.13.0",
    }  # fmt: skip


def test_with_a_gpu_the_processor_is_not_part_of_the_platform(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hardware, "gpus", lambda: (Gpu("NVIDIA GB10", "580.95"),))
    facts = hardware.platform_facts(threads=2, torch_version="2.13.0", instruction_set="sve")
    assert facts == {
        "name": "cuda-nvidia-gb10-580.95-torch2.13.0", "device": "cuda",
        "gpus": ["NVIDIA GB10"], "driver": "580.95", "torch": "2.13.0",
    }  # fmt: skip


def test_facts_of_this_machine_are_json_and_plausible(tmp_path: Path) -> None:
    facts = hardware.hardware_facts()
    assert facts["machine"] == platform.machine()
    assert 1 <= facts["cpus"] <= (os.cpu_count() or 1)
    assert 0 < facts["memory"]["available"] <= facts["memory"]["total"]
    assert hardware.disk_free(tmp_path / "not" / "yet" / "there") > 0
