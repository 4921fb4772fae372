"""A warm-up that a tool says as a part of the steps."""

from __future__ import annotations

import math
from collections.abc import Callable

from runner.capture.steps import about_steps
from runner.imports.sheet import Sheet
from runner.imports.wanted import Wanted


def warm_up(
    sheet: Sheet,
    wanted: Wanted,
    name: str,
    ratio: float,
    rounded: Callable[[float], int] = math.ceil,
) -> int:
    """Write train.warmup_steps for a part of the steps; 0 where none can be told."""
    total = about_steps(sheet.made.recipe, wanted.place.recipe, wanted.root)
    steps = 0 if total is None else rounded(ratio * total)
    sheet.put("train.warmup_steps", steps, name)
    becomes = f"train.warmup_steps: {steps}"
    if total is None:
        why = f"{ratio:g} of the steps, whose number is not known here; write it yourself"
        sheet.lost(name, why, becomes)
    else:
        sheet.close(name, f"{ratio:g} of about {total} steps; a recipe counts them", becomes)
    return steps
