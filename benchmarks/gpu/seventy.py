"""The whole 70B in 4 bits: does its peak lie where the course and the plan say it does?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.gpu.cases import EXPECTED, SEVENTY


def row_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """The case's row, and where it was measured whether its peak is an expected one."""
    if "phases" not in row:
        return dict(row)
    peak = max(phase["measured"] for phase in row["phases"].values())
    low, high = EXPECTED
    return {**row, "peak": peak, "expected": list(EXPECTED), "as_expected": low <= peak <= high}


def is_seventy(row: Mapping[str, Any]) -> bool:
    """Is it the row of the 70B?"""
    return bool(row["name"] == SEVENTY.name)
