"""How many steps a training has, for what other tools say as a part of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runner.recipe.checks.disk import count_rows
from runner.recipe.paths import resolved


def about_steps(recipe: Mapping[str, Any], folder: Path, root: Path) -> int | None:
    """Optimizer steps by the rows that are here; None when they, or the packs, are not counted.

    `folder`: where the recipe's paths start. Outside of `root` nothing is read.
    """
    train, data = recipe["train"], recipe["data"]
    if train.get("max_steps") is not None:
        return int(train["max_steps"])
    batch = int(train["per_device_train_batch_size"]) * int(train["gradient_accumulation_steps"])
    if data.get("packing") or batch < 1:
        return None
    total = 0
    for item in data["train"]:
        real = resolved(folder / item["path"]) if "path" in item else None
        rows = count_rows(real) if real and real.is_relative_to(root) else None
        if rows is None:
            return None
        total += rows
    kept = total * (1 - float(data.get("validation", {}).get("fraction", 0)))
    return math.ceil(math.ceil(kept / batch) * float(train["num_train_epochs"]))
