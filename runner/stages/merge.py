"""Add the trained adapter to the base weights: one rounding, the same bytes on every machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.stages.contract import Class, Context, Upstream

if TYPE_CHECKING:
    from runner.recipe.model import Recipe

NAME = "merge"
VERSION = 1
OUTPUTS = {"model/*": Class.PORTABLE}
NEEDS = ("fetch", "prepare", "train", "constants")
ENVIRONMENT = "export"
TOOLS: tuple[str, ...] = ()
DEVICE = False


def wanted(recipe: Recipe) -> bool:
    """Asked for, and there is an adapter: without one the trained model is the result itself."""
    return recipe.merge is not None and recipe.train.adapter.type != "none"


def key_inputs(recipe: Recipe, upstream: Upstream) -> dict[str, Any]:
    """The merge section and the contents of base, adapter and chat template, and what the base in
    4 bits is rebuilt from."""
    assert recipe.merge is not None
    return {
        "base": recipe.merge.base,
        "dtype": recipe.merge.dtype,
        "model": upstream["fetch"].digest("model/*"),
        "adapter": upstream["train"].digest("adapter/*"),
        "template": upstream["prepare"].digest("chat_template.jinja"),
        **({"constants": upstream["constants"].digest()} if "constants" in upstream else {}),
    }


def run(recipe: Recipe, inputs: Upstream, folder: Path, context: Context) -> None:
    """Write the merged `model/` below `folder`. Raises StageFailed."""
    assert recipe.merge is not None
    context.run_script(
        "merge",
        {"dtype": recipe.merge.dtype},
        inputs={
            "model": inputs["fetch"].folder / "model",
            "adapter": inputs["train"].folder / "adapter",
            "template": inputs["prepare"].path("chat_template.jinja"),
            **({"constants": inputs["constants"].folder} if "constants" in inputs else {}),
        },
        folder=folder,
    )
