"""The model that goes on to GGUF and Ollama: the merged one, or the one trained as a whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner.stages.contract import Outputs, Upstream

if TYPE_CHECKING:
    from runner.recipe.model import Recipe

NEEDS = ("merge", "train")  # whichever the recipe's chain gives a model by


def model_of(inputs: Upstream) -> Outputs:
    """The stage whose `model/` is deployed: `merge`, or `train` where every weight was trained."""
    return inputs.get("merge") or inputs["train"]


def dtype_of(recipe: Recipe) -> str:
    """The dtype of the weights that the unquantised GGUF file keeps."""
    return recipe.merge.dtype if recipe.merge is not None else recipe.model.dtype
