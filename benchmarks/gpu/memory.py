"""Predicted memory beside measured memory, phase by phase. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.gpu.cases import Case
from runner.plan.job import Memory

WITHIN = 0.10  # of what was measured


def compared(
    case: Case, phases: Mapping[str, Mapping[str, int]], device: str, shared: bool = True
) -> dict[str, Any]:
    """Phase -> bytes predicted and measured, and measured over predicted, of what was measured.

    `ratio` is of all that the device has in use; `tensors_ratio` of what torch gave away alone,
    beside the plan without its constant for the process.
    """
    predicted = case.predicted(device, shared)
    return {name: _phase(predicted[name], found) for name, found in phases.items()}


def _phase(plan: Memory, found: Mapping[str, int]) -> dict[str, Any]:
    tensors = sum(item.bytes for item in plan.items if item.name != "process")
    row = {"predicted": plan.total, "measured": found["in_use"]}
    row |= {"ratio": round(found["in_use"] / plan.total, 4)}
    row |= {"within": abs(found["in_use"] - plan.total) <= WITHIN * found["in_use"]}
    if "tensors" in found:
        row |= {"tensors": found["tensors"], "reserved": found["reserved"]}
        row |= {"tensors_ratio": round(found["tensors"] / tensors, 4)}
    return row


def too_large(case: Case, available: int) -> str:
    """Why the case cannot fit a device with so many bytes; empty where the plan says it does."""
    peak = max(memory.total for memory in case.predicted("cuda").values())
    if peak <= available:
        return ""
    return f"the plan counts {peak / 1e9:.1f} GB, and the device has {available / 1e9:.1f} GB"
