"""Of a base that was held in 4 bits, what the merge rebuilds it from: scales, and digests.

They are bitsandbytes' own, on the device that trains: the mean below double quantisation has no
fixed order, so no other machine could make them. With them the merge is portable again.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.recipe.model import quantization_spec
from runner.stages import merge
from runner.stages.contract import Class, Context, Upstream

if TYPE_CHECKING:
    from runner.recipe.model import Recipe

NAME = "constants"
VERSION = 1
OUTPUTS = {"constants.*": Class.PLATFORM}
NEEDS = ("fetch",)
ENVIRONMENT = "evaluate"
TOOLS: tuple[str, ...] = ()
DEVICE = True


def wanted(recipe: Recipe) -> bool:
    """Only where the adapter is added to what the 4-bit weights say."""
    return merge.wanted(recipe) and recipe.merge is not None and recipe.merge.base == "dequantized"


def key_inputs(recipe: Recipe, upstream: Upstream) -> dict[str, Any]:
    """How the base is held, and its contents."""
    return {**_settings(recipe), "model": upstream["fetch"].digest("model/*")}


def run(recipe: Recipe, inputs: Upstream, folder: Path, context: Context) -> None:
    """Write `constants.json` and `constants.safetensors` into `folder`. Raises StageFailed."""
    model = {"model": inputs["fetch"].folder / "model"}
    context.run_script("constants", _settings(recipe), inputs=model, folder=folder)


def _settings(recipe: Recipe) -> dict[str, Any]:
    return {
        "dtype": recipe.model.dtype,
        "attn_implementation": recipe.model.attn_implementation,
        **({"trust_remote_code": True} if recipe.model.trust_remote_code else {}),
        **quantization_spec(recipe.model),
    }
