"""The platform: what a claim of equal bytes depends on beside the recipe and its inputs."""

from __future__ import annotations

import functools
from typing import Any

from runner.system import determinism, environments, hardware


@functools.cache
def current_platform() -> dict[str, Any]:
    """Facts of this machine's platform; `name` is short and fit for a file name."""
    return hardware.platform_facts(
        threads=compute_threads(),
        torch_version=environments.torch_version("native"),
        instruction_set=determinism.instruction_set(),
    )


def compute_threads() -> int:
    """Threads that every script computes with on this machine."""
    return determinism.thread_count(hardware.available_cpus())
