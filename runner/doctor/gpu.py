"""The GPU, its driver, what torch makes of it, and the assembler that Triton calls."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from runner.doctor.check import Check, State, ok
from runner.system import environments, hardware

SECONDS = 120.0  # for torch to load and find its GPU
# CUDA Toolkit release notes, table of driver versions: CUDA 13.0 comes with R580.
CUDA, LEAST_DRIVER = "CUDA 13", 580
# Compute capability by name, where torch cannot be asked yet. Only where the assembler matters.
CAPABILITIES = {"NVIDIA GB10": [12, 1]}
_ASK = """
import json, torch
found = torch.cuda.is_available()
print(json.dumps({
    "torch": torch.__version__,
    "cuda": torch.version.cuda,
    "available": found,
    "capability": list(torch.cuda.get_device_capability(0)) if found else None,
    "architectures": torch.cuda.get_arch_list() if found else [],
    "bf16": bool(found and torch.cuda.is_bf16_supported()),
}))
"""


def is_unified(root: Path) -> bool:
    """Does the GPU share the processor's memory?"""
    return any(hardware.shares_memory(gpu.name) for gpu in hardware.gpus(root))


def gpus(root: Path, cache: Path) -> Iterator[Check]:
    """The driver's word, then torch's, then the assembler's."""
    found = hardware.gpus(root)
    if not found:
        yield Check(
            "gpu",
            State.NOTE,
            "none that this process can open",
            "it trains on the processor: small models only",
            "in a container: docker compose -f compose.yaml -f compose.gpu.yaml run recipe doctor",
        )
        return
    yield ok("gpu", f"{', '.join(gpu.name for gpu in found)}; driver {found[0].driver}")
    if is_unified(root):
        yield ok("gpu memory", "shared with the processor: MemAvailable counts, NVML knows none")
    yield from driver(found[0].driver)
    yield from users(hardware.gpu_users())
    capability = CAPABILITIES.get(found[0].name)
    environment = environments.find("native", cache)
    if environment is None:
        yield not_built("torch", "native")
    else:
        facts = ask_torch(environment.python)
        yield from torch_checks(facts)
        capability = facts.get("capability") or capability
    if capability:
        yield from assembler(capability, os.environ)


def driver(version: str) -> Iterator[Check]:
    """Is it new enough for the CUDA of the environments?"""
    major = version.partition(".")[0]
    if major.isdigit() and int(major) < LEAST_DRIVER:
        yield Check(
            "driver",
            State.PROBLEM,
            f"{version} is older than {LEAST_DRIVER}, which {CUDA} needs",
            "torch finds no GPU with it, and trains on the processor",
            "update the driver: sudo apt install nvidia-open, or NVIDIA's installer; then reboot",
        )


def users(found: Sequence[tuple[int, str, str]]) -> Iterator[Check]:
    """Who computes on it now."""
    if not found:
        return
    told = "; ".join(f"{name} (pid {pid}): {size}" for pid, name, size in found)
    yield Check(
        "gpu users",
        State.WARNING,
        told,
        "what they hold of its memory a training cannot have, and they take its time",
        "end what is not needed; a model that Ollama keeps: ollama stop NAME",
    )


def not_built(name: str, role: str) -> Check:
    """What cannot be asked yet."""
    return Check(
        name,
        State.NOTE,
        f"not asked: the environment {role} is not built yet",
        "",
        "recipe run x.yaml --get builds what the recipe needs",
    )


def ask_torch(python: Path) -> dict[str, Any]:
    """What torch of an environment says; empty when it does not even load."""
    try:
        said = subprocess.run(
            [str(python), "-c", _ASK], capture_output=True, text=True, timeout=SECONDS, check=True
        )
        answer: dict[str, Any] = json.loads(said.stdout.splitlines()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return {}
    return answer


def torch_checks(facts: Mapping[str, Any]) -> Iterator[Check]:
    """Does torch use the GPU, and was it built for it?"""
    if not facts:
        yield Check(
            "torch",
            State.PROBLEM,
            "torch of the environment native does not load",
            "nothing can be trained",
            "recipe run recipes/quickstart.yaml --until train, and read its log",
        )
        return
    version = f"torch {facts['torch']} for CUDA {facts['cuda']}"
    if not facts["available"]:
        yield Check(
            "torch",
            State.PROBLEM,
            f"{version} finds no GPU that it can use",
            "the driver may be too old for this CUDA; it would train on the processor",
            "nvidia-smi shows which CUDA the driver has; update it, or use the container image",
        )
        return
    major, minor = facts["capability"]
    own = f"sm_{major}{minor}"
    built = facts["architectures"]
    if own in built:
        yield ok("torch", f"{version}, built for {own}")
    elif any(name.startswith(f"sm_{major}") for name in built):
        yield ok("torch", f"{version}, built for {', '.join(built)}; {own} runs by compatibility")
    else:
        yield Check(
            "torch",
            State.PROBLEM,
            f"{version} is built for {', '.join(built)}, and the GPU is {own}",
            "no kernel of it runs there",
            "use the container image, whose torch is built for it",
        )
    if not facts["bf16"]:
        yield Check(
            "bfloat16",
            State.WARNING,
            "the GPU does not compute in bfloat16",
            "recipes with train.bf16 or model.dtype: bfloat16 are slow or fail",
            "write model.dtype: float16 or float32",
        )


def assembler(capability: list[int], environ: Mapping[str, str]) -> Iterator[Check]:
    """Triton compiles for the GPU by a ptxas; the one in its wheel may not know a new one."""
    wanted = f"sm_{capability[0]}{capability[1]}"
    named = environ.get("TRITON_PTXAS_PATH", "")
    path = named or shutil.which("ptxas", path=environ.get("PATH")) or ""
    if not path:
        if wanted == "sm_121":
            yield _no_assembler(wanted, "Triton's own is used, which may not know it")
        return
    try:
        said = subprocess.run([path, "--help"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        yield _no_assembler(wanted, f"{path} cannot be run")
        return
    if wanted in said.stdout and named:
        yield ok("ptxas", f"{path} knows {wanted}")
    elif wanted in said.stdout:
        yield _no_assembler(wanted, f"{path} knows it, and Triton is not told", path)
    else:
        yield _no_assembler(wanted, f"{path} does not know it")


def _no_assembler(wanted: str, found: str, path: str = "/usr/local/cuda/bin/ptxas") -> Check:
    return Check(
        "ptxas",
        State.WARNING,
        f"the GPU is {wanted}, and {found}",
        "kernels that Triton compiles (torch.compile, Unsloth) fail",
        f"export TRITON_PTXAS_PATH={path}",
    )
