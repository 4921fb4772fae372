"""Tokens a second and their part of what the device can do, or why that cannot be true.

By the code of `recipe bench train`: steps behind the warm-up, the machine's file for the peak, and
its refusal of what is above the roofline. Standard library only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.gpu.cases import WARM_UP, Case
from runner.bench.figures import ImpossibleFigure, Roofline, figures_of, steps_of
from runner.plan.cost import flop_per_trained_token
from runner.plan.machines import peak_of

PASSES = 2  # there and back: no layer lies below all that learns


def speed(case: Case, events: Iterable[Mapping[str, Any]], gpu: str) -> dict[str, Any]:
    """`tokens_per_second` and `mfu` (None: no file of the machine), or `refused` and why."""
    steps = steps_of(events)
    if len(steps) <= WARM_UP:
        return {"refused": f"{len(steps)} steps were told of, and {WARM_UP} are warm-up"}
    peak, title = peak_of(gpu)
    shapes = case.shapes
    roofline = Roofline(peak, title, flop_per_trained_token(shapes, case.job.adapter, PASSES))
    try:
        found = figures_of(steps, WARM_UP, roofline)
    except ImpossibleFigure as error:
        return {"refused": error.message}
    return {
        "steps": found.steps,
        "tokens_per_second": round(found.per_second["non_pad"], 1),
        "mfu": None if found.mfu is None else round(found.mfu, 4),
    }
