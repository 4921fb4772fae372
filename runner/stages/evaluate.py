"""Compare base and tuned model: held-out loss, and greedy answers to the same questions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.stages.contract import Class, Context, Upstream

if TYPE_CHECKING:
    from runner.recipe.model import Recipe

NAME = "evaluate"
VERSION = 1
OUTPUTS = {"answers.jsonl": Class.PLATFORM, "evaluation.json": Class.MEASURED}
NEEDS = ("fetch", "prepare", "train")
ENVIRONMENT = "evaluate"
TOOLS: tuple[str, ...] = ()
DEVICE = True


def wanted(recipe: Recipe) -> bool:
    """Does the recipe evaluate?"""
    return recipe.evaluate is not None


def snapshot(recipe: Recipe) -> dict[str, Any]:
    """Digest of the questions, when the recipe names a file of them."""
    from runner.store.digest import file_sha256

    assert recipe.evaluate is not None
    if recipe.evaluate.questions is None:
        return {}
    return {"questions": file_sha256(recipe.resolve(recipe.evaluate.questions))}


def key_inputs(recipe: Recipe, upstream: Upstream) -> dict[str, Any]:
    """Both models, the held-out tokens and prompts, and the evaluate section. Pure."""
    return {
        "settings": _settings(recipe),
        "base": upstream["fetch"].digest("model/*"),
        "adapter": upstream["train"].digest("adapter/*"),
        "tuned": upstream["train"].digest("model/*"),
        "tokens": upstream["prepare"].digest("validation.tokens.safetensors"),
        "prompts": upstream["prepare"].digest("prompts.jsonl"),
        "references": upstream["prepare"].digest("validation.jsonl"),
        "template": upstream["prepare"].digest("chat_template.jinja"),
    }


def run(recipe: Recipe, inputs: Upstream, folder: Path, context: Context) -> None:
    """Write answers.jsonl and evaluation.json into `folder`. Raises StageFailed."""
    assert recipe.evaluate is not None
    kind = "model" if recipe.train.adapter.type == "none" else "adapter"
    named = {
        "base": inputs["fetch"].folder / "model",
        kind: inputs["train"].folder / kind,
        "tokens": inputs["prepare"].path("validation.tokens.safetensors"),
        "prompts": inputs["prepare"].path("prompts.jsonl"),
        "references": inputs["prepare"].path("validation.jsonl"),
        "template": inputs["prepare"].path("chat_template.jinja"),
    }
    if recipe.evaluate.questions is not None:
        named["questions"] = recipe.resolve(recipe.evaluate.questions)
    context.run_script("evaluate", _settings(recipe), inputs=named, folder=folder)


def _settings(recipe: Recipe) -> dict[str, Any]:
    assert recipe.evaluate is not None
    return {
        "loss": recipe.evaluate.loss,
        "samples": recipe.evaluate.samples,
        "max_new_tokens": recipe.evaluate.max_new_tokens,
        "system": recipe.data.system,
        "dtype": recipe.model.dtype,
        "attn_implementation": recipe.model.attn_implementation,
    }
