"""The platform: what a claim of equal bytes depends on beside the recipe and its inputs."""

from __future__ import annotations

import functools
import re
from typing import Any

from runner.system import determinism, hardware
from runner.system.environments import environment_lock_path


@functools.cache
def current_platform() -> dict[str, Any]:
    """Facts of this machine's platform; `name` is short and fit for a file name."""
    threads = determinism.thread_count(hardware.available_cpus())
    return hardware.platform_facts(
        threads=threads, torch_version=locked_torch(), instruction_set=determinism.instruction_set()
    )


@functools.cache
def locked_torch() -> str:
    """The torch version that trains, as pinned in environments/native.txt."""
    text = environment_lock_path("native").read_text(encoding="utf-8")
    found = re.search(r"^torch==([^\s;\\]+)", text, re.MULTILINE)
    if found is None:
        raise ValueError("environments/native.txt pins no torch")
    return found.group(1)
