"""Set torch up so that equal inputs give equal bytes, and refuse to work when that failed.

Variables of the process environment are decided in runner/system/determinism.py: they must be set
before torch is loaded. What only torch can do is here.
"""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Callable
from pathlib import Path

import torch

from runner.scripts.spec import Events, ScriptError, Spec

# ATEN_CPU_CAPABILITY -> what torch then says of itself
_CAPABILITIES = {"avx512": "AVX512", "avx2": "AVX2", "default": "DEFAULT"}

# What takes less of a GPU's memory.
SMALLER_STEPS = (
    "lower train.per_device_train_batch_size (raise gradient_accumulation_steps instead), or set "
    "train.gradient_checkpointing"
)
SHORTER_QUESTIONS = (
    "leave the GPU to this run alone; else fewer examples before a question "
    "(evaluate.harness.num_fewshot), or tasks with shorter rows"
)


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


def check_still_set_up() -> None:
    """Raise ScriptError E870 when what computed since has undone a part of `set_up_torch`.

    A model's own code may, and then the result is not known to be one that can be had again.
    """
    undone = [what for what, holds in _rules().items() if not holds]
    if undone:
        raise ScriptError(
            f"while it computed, something turned off: {', '.join(undone)}",
            hint="find `torch.` settings in the model's own code (model.trust_remote_code), and "
            "take them out",
            code="E870",
        )


def _rules() -> dict[str, bool]:
    """What `set_up_torch` sets, and whether it is so."""
    strict = torch.are_deterministic_algorithms_enabled()
    return {
        "deterministic algorithms": strict
        and not torch.is_deterministic_algorithms_warn_only_enabled(),
        "the number of threads": torch.get_num_threads() == int(os.environ["OMP_NUM_THREADS"]),
        "products in full float32": not (
            torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32
        ),
        "one algorithm of cuDNN": not torch.backends.cudnn.benchmark,
    }


def check_finite(loss: torch.Tensor, step: int) -> None:
    """Raise ScriptError E517 when every later step would be lost time."""
    if not torch.isfinite(loss):
        raise ScriptError(
            f"the loss became {loss.item()} at step {step}",
            hint="lower train.learning_rate, or set model.dtype to float32",
            code="E517",
        )


# What CUDA says when the driver has lost a GPU, or stopped what ran on it.
_LOST = (
    "unspecified launch failure",
    "uncorrectable ECC error",
    "hardware stack error",
    "the launch timed out",
    "no CUDA-capable device",
    "CUDA unknown error",
    "driver shutting down",
    "device is busy or unavailable",
    "devices are busy or unavailable",
    "GPU has fallen off the bus",
)


def told_of_gpu(
    job: Callable[[Spec, Events], None], hint: str = SMALLER_STEPS
) -> Callable[[Spec, Events], None]:
    """`job`, with a GPU that is too small (E509) or lost (E963) as an error for the user.

    `hint`: what helps where it is too small.
    """

    def run(spec: Spec, events: Events) -> None:
        try:
            job(spec, events)
        except torch.OutOfMemoryError as error:
            raise ScriptError(
                f"the GPU has too little memory: {str(error).splitlines()[0]}",
                hint=hint,
                code="E509",
            ) from error
        except RuntimeError as error:
            if not (said := lost_gpu(error)):
                raise
            raise ScriptError(
                f"the GPU, or its driver, is gone: {said}",
                hint="look for Xid in `sudo dmesg`; when nvidia-smi answers again, perhaps after "
                "a reboot, the same command goes on from the last checkpoint",
                code="E963",
            ) from error

    return run


def lost_gpu(error: RuntimeError) -> str:
    """What CUDA says of a GPU that answers no more; "" for every other error."""
    first = next(iter(str(error).splitlines()), "")
    return first if any(words in first for words in _LOST) else ""


def memory_in_use(device: torch.device) -> int:
    """Bytes: what torch holds on a GPU, else the resident size of this process."""
    if device.type == "cuda":
        return torch.cuda.memory_reserved(device)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def peak_memory(device: torch.device) -> int:
    """Bytes: the most that was in use at once since the process began."""
    return max(_highest.get(device.type, 0), recent_peak(device))


def recent_peak(device: torch.device) -> int:
    """Bytes: the most that was in use at once since `begin_peak`, or since the process began."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    # Not getrusage: its peak survives exec, and so begins at the size of whoever started us.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def begin_peak(device: torch.device) -> None:
    """From here on `recent_peak` tells of a new phase; where the kernel allows it."""
    _highest[device.type] = peak_memory(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # man 5 proc


_highest: dict[str, int] = {}  # type of device -> bytes at the peak of the phases that are over
