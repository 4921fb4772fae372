"""The scripts' environment, on processors that this machine does not have."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.system import determinism
from runner.system.process import child_env
from tests.chain import ROOT

X86 = "vendor_id\t: {vendor}\nflags\t\t: fpu sse2 {flags}\n"
AVX2 = "avx avx2 fma"
AVX512 = f"{AVX2} avx512f avx512bw avx512vl avx512dq"
GB10 = "CPU implementer\t: 0x41\nCPU part\t: 0xd85\nCPU implementer\t: 0x41\nCPU part\t: 0xd87\n"


class Processor:
    """Pretends to be another machine."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self._monkeypatch, self._file = monkeypatch, folder / "cpuinfo"

    def be(self, machine: str, cpuinfo: str) -> None:
        self._file.write_text(cpuinfo)
        self._monkeypatch.setattr(determinism, "_CPUINFO", self._file)
        self._monkeypatch.setattr("platform.machine", lambda: machine)
        forget()


def forget() -> None:
    for cached in (determinism.instruction_set, determinism.bfloat16_path, determinism._cpuinfo):
        cached.cache_clear()


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Processor]:
    yield Processor(monkeypatch, tmp_path)
    monkeypatch.undo()
    forget()


@pytest.mark.parametrize(
    ("vendor", "flags", "name", "bfloat16"),
    [
        ("GenuineIntel", AVX2, "avx2-intel", "reference"),
        ("GenuineIntel", AVX512, "avx2-intel", "avx512"),
        ("GenuineIntel", f"{AVX512} avx512_bf16 amx_tile", "avx2-intel", "avx512-bf16"),
        ("GenuineIntel", f"{AVX2} avx_ne_convert", "avx2-intel", "avx2-ne-convert"),
        ("AuthenticAMD", AVX512, "avx2-amd", "avx512"),
        ("Shiny", AVX2, "avx2-shiny", "reference"),
        ("GenuineIntel", "ssse3", "sse2-intel", "reference"),
    ],
)
def test_newer_x86_processors_share_a_name_and_makers_do_not(
    processor: Processor, vendor: str, flags: str, name: str, bfloat16: str
) -> None:
    processor.be("x86_64", X86.format(vendor=vendor, flags=flags))
    assert determinism.instruction_set() == name
    assert determinism.bfloat16_path() == bfloat16


def test_the_cap_is_the_same_on_all_that_have_avx2(processor: Processor) -> None:
    found = []
    for flags in (AVX2, AVX512, f"{AVX512} avx512_bf16"):
        processor.be("x86_64", X86.format(vendor="GenuineIntel", flags=flags))
        found.append(determinism.script_env(2))
    assert found[0] == found[1] == found[2]
    assert (found[0]["ATEN_CPU_CAPABILITY"], found[0]["MKL_CBWR"]) == ("avx2", "AVX2,STRICT")


def test_without_avx2_torch_is_not_told_to_use_it(processor: Processor) -> None:
    processor.be("x86_64", X86.format(vendor="GenuineIntel", flags="ssse3"))
    assert determinism.script_env(1)["ATEN_CPU_CAPABILITY"] == "default"


def test_an_arm_processor_is_named_by_its_cores_and_not_capped(processor: Processor) -> None:
    processor.be("aarch64", GB10)
    assert determinism.instruction_set() == "arm64-41-d85-d87"
    assert determinism.bfloat16_path() == ""
    assert "ATEN_CPU_CAPABILITY" not in determinism.script_env(4)


def test_every_library_gets_the_same_number_of_threads() -> None:
    env = determinism.script_env(3)
    assert {name: value for name, value in env.items() if name.endswith("_NUM_THREADS")} == {
        "OMP_NUM_THREADS": "3",
        "MKL_NUM_THREADS": "3",
        "OPENBLAS_NUM_THREADS": "3",
    }


@pytest.mark.parametrize(("cpus", "threads"), [(1, 1), (2, 2), (16, 16), (128, 16)])
def test_threads_follow_the_machine_up_to_a_limit(cpus: int, threads: int) -> None:
    assert determinism.thread_count(cpus) == threads


# What docs and decisions claim of every script's process, whatever the machine.
RULES = {
    "PYTHONHASHSEED": "0",
    "PYTHONNOUSERSITE": "1",
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    "FLASH_ATTENTION_DETERMINISTIC": "1",
    "TORCHDYNAMO_DISABLE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_DYNAMIC": "FALSE",
    "MKL_DYNAMIC": "FALSE",
}


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_every_rule_is_in_every_scripts_environment(processor: Processor, machine: str) -> None:
    processor.be(machine, X86.format(vendor="GenuineIntel", flags=AVX512))
    env = determinism.script_env(2)
    assert {name: env.get(name) for name in RULES} == RULES


def test_nothing_of_the_hosts_environment_replaces_a_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*RULES, "OMP_NUM_THREADS", "MKL_CBWR", "LD_PRELOAD", "KMP_AFFINITY", "NPY_X"):
        monkeypatch.setenv(name, "the host's")
    assert "the host's" not in child_env(determinism.script_env(2)).values()


@pytest.mark.parametrize(
    ("words", "place"),
    [
        (r"PYTHONHASHSEED|CUBLAS_WORKSPACE|OMP_NUM_THREADS\": ", "system/determinism.py"),
        (r"MKL_CBWR|OPENBLAS_CORETYPE|ONEDNN_MAX_CPU_ISA", "system/determinism.py"),
        (
            r"torch\.use_deterministic_algorithms|torch\.set_num_threads",
            "scripts/training/torch_setup.py",
        ),
        (r"allow_tf32 = |cudnn\.benchmark = ", "scripts/training/torch_setup.py"),
        (r"\bset_seed\(", "scripts/training/native_model.py"),
    ],
)
def test_each_rule_is_set_in_one_place(words: str, place: str) -> None:
    runner = ROOT / "runner"
    found = {
        path.relative_to(runner).as_posix()
        for path in runner.rglob("*.py")
        if re.search(words, path.read_text(encoding="utf-8"))
    }
    assert found == {place}


def test_scripts_cannot_reach_the_network_for_models_or_data() -> None:
    env = determinism.script_env(1)
    offline = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
    assert [env[name] for name in offline] == ["1", "1", "1"]
