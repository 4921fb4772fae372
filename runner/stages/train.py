"""Train on the prepared tokens; the recipe's backend decides by which program."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.backends import load_backend
from runner.stages.contract import Class, Context, Upstream

if TYPE_CHECKING:
    from runner.recipe.model import Recipe

NAME = "train"
VERSION = 1
OUTPUTS = {
    "adapter/*": Class.PLATFORM,
    "model/*": Class.PLATFORM,
    "trace.jsonl": Class.PLATFORM,
}
NEEDS = ("fetch", "prepare")
ENVIRONMENT = "native"
TOOLS: tuple[str, ...] = ()
DEVICE = True


def wanted(recipe: Recipe) -> bool:
    """Every recipe trains."""
    return True


def snapshot(recipe: Recipe) -> dict[str, Any]:
    """How this processor multiplies in bfloat16, for the recipes that do."""
    from runner.system.determinism import bfloat16_path

    held = recipe.model.quantization is not None  # 4-bit weights are multiplied in 16 bits
    half = held or recipe.train.bf16 or recipe.model.dtype != "float32"
    path = bfloat16_path() if half else ""
    return {"bfloat16_path": path} if path else {}


def key_inputs(recipe: Recipe, upstream: Upstream) -> dict[str, Any]:
    """Backend, its settings, and the contents of model and tokens; `save_steps` decides nothing."""
    return {
        "backend": recipe.train.backend,
        "settings": load_backend(recipe.train.backend).spec(recipe),
        "model": upstream["fetch"].digest("model/*"),
        "tokens": upstream["prepare"].digest("train.tokens.safetensors"),
        # A fully tuned model is a model folder of its own, template included.
        "template": upstream["prepare"].digest("chat_template.jinja")
        if recipe.train.adapter.type == "none"
        else None,
    }


def resumable(scratch: Path) -> bool:
    """Is there a complete checkpoint to go on from?"""
    from runner.scripts.checkpoints import complete_checkpoints

    return bool(complete_checkpoints(scratch / "checkpoints"))


def run(recipe: Recipe, inputs: Upstream, folder: Path, context: Context) -> None:
    """Write `adapter/` (or `model/`) and `trace.jsonl` into `folder`. Raises StageFailed."""
    backend = load_backend(recipe.train.backend)
    context.run_script(
        backend.script(recipe),
        {"settings": backend.spec(recipe), "save_steps": recipe.train.save_steps},
        inputs={
            "model": inputs["fetch"].folder / "model",
            "tokens": inputs["prepare"].path("train.tokens.safetensors"),
            "template": inputs["prepare"].path("chat_template.jinja"),
        },
        folder=folder,
        environment=backend.ENVIRONMENT,
    )
