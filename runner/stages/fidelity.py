"""How near the merged model is to the trained one, where the base was held in 4 bits.

The adapter was trained on weights in 4 bits, and is merged into others: nobody has trained what
comes of it. On held-out rows its predictions are held against those of base and adapter as they
were trained (docs/quantisation.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.recipe.methods import METHODS
from runner.recipe.model import quantization_spec
from runner.stages import merge
from runner.stages.contract import Class, Context, Upstream

if TYPE_CHECKING:
    from runner.recipe.model import Recipe

NAME = "fidelity"
VERSION = 2
OUTPUTS = {"fidelity.json": Class.MEASURED}
NEEDS = ("fetch", "prepare", "train", "merge")
ENVIRONMENT = "evaluate"
TOOLS: tuple[str, ...] = ()
DEVICE = True

# Part of the KL divergence by which training has moved the model, above which the merge is far off.
# It grows with the square of what moves the predictions: a tenth is a third of training's way.
FAR = 0.1
NO_ROWS = "there are no held-out rows"


def wanted(recipe: Recipe) -> bool:
    """Asked for, and there is something to hold against each other: see `unmeasured`."""
    return merge.wanted(recipe) and not unmeasured(recipe)


def unmeasured(recipe: Recipe) -> str:
    """Why nothing is measured; "" where it is."""
    if recipe.merge is None or not recipe.merge.fidelity:
        return "merge.fidelity is false"
    if recipe.model.quantization is None:
        return "the base is not held in 4 bits"
    method = METHODS[recipe.train.method]
    if method.compares or method.generates:
        return f"the rows of {recipe.train.method} are not answers to hold two models against"
    held_out = recipe.data.validation
    return "" if held_out.fraction or held_out.files else NO_ROWS


def snapshot(recipe: Recipe) -> dict[str, Any]:
    """How this processor multiplies in bfloat16."""
    from runner.system.determinism import bfloat16_path

    return {"bfloat16_path": path} if (path := bfloat16_path()) else {}


def key_inputs(recipe: Recipe, upstream: Upstream) -> dict[str, Any]:
    """Both models and the rows."""
    return {
        **_settings(recipe),
        "model": upstream["fetch"].digest("model/*"),
        "trained": upstream["train"].digest("adapter/*"),
        "merged": upstream["merge"].digest("model/*"),
        "tokens": upstream["prepare"].digest("validation.tokens.safetensors"),
    }


def run(recipe: Recipe, inputs: Upstream, folder: Path, context: Context) -> None:
    """Write `fidelity.json` into `folder`. Raises StageFailed."""
    from runner.system import hardware

    context.run_script(
        "fidelity",
        {**_settings(recipe), "memory": hardware.memory().available},
        inputs={
            "model": inputs["fetch"].folder / "model",
            "trained": inputs["train"].folder / "adapter",
            "merged": inputs["merge"].folder / "model",
            "tokens": inputs["prepare"].path("validation.tokens.safetensors"),
        },
        folder=folder,
    )


def judge(recipe: Recipe, measures: Mapping[str, Any]) -> dict[str, Any]:
    """Is the merged model far from the trained one? No part of the key."""
    if "kl_merged" not in measures:
        return {}
    return {"far": measures["kl_merged"] > FAR * measures["kl_training"]}


def _settings(recipe: Recipe) -> dict[str, Any]:
    assert recipe.merge is not None
    return {
        "base": recipe.merge.base,
        "trained": "adapter",
        "dtype": recipe.model.dtype,
        "attn_implementation": recipe.model.attn_implementation,
        **({"trust_remote_code": True} if recipe.model.trust_remote_code else {}),
        **quantization_spec(recipe.model),
    }
