"""Way `cli`: the stage `train`, done by `llamafactory-cli train` in a process of its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.backends import llamafactory
from runner.stages import train
from runner.stages.contract import Context, Upstream

if TYPE_CHECKING:
    from runner.recipe.model import Recipe

NAME = train.NAME
VERSION = 1
OUTPUTS = train.OUTPUTS
NEEDS = train.NEEDS
ENVIRONMENT = llamafactory.ENVIRONMENT
TOOLS: tuple[str, ...] = ()
DEVICE = True
WAY = "cli"

wanted = train.wanted
snapshot = train.snapshot


def key_inputs(recipe: Recipe, upstream: Upstream) -> dict[str, Any]:
    """Those of backend llamafactory, and the way: its trace is another one."""
    return {**train.key_inputs(recipe, upstream), "way": WAY}


def run(recipe: Recipe, inputs: Upstream, folder: Path, context: Context) -> None:
    """Write what the stage `train` writes. Raises StageFailed (E891, E892)."""
    context.run_script(
        "train_by_cli", spec_of(recipe, context), inputs=inputs_of(inputs), folder=folder
    )


def require_comparable(recipe: Recipe) -> None:
    """Is it what these programs are shown to train alike? Raises UsageError (E533)."""
    llamafactory.require_shared_tokens(recipe)


def spec_of(recipe: Recipe, context: Context) -> dict[str, Any]:
    """What decides the bytes of a training by one of LLaMA Factory's own programs."""
    return {
        "settings": llamafactory.spec(recipe),
        "save_steps": recipe.train.save_steps,
        "device": str(context.platform["device"]),
        "more": count_tokens(recipe),
    }


def count_tokens(recipe: Recipe) -> dict[str, str]:
    """What makes LLaMA Factory count tokens; of packs, whose mask has four dimensions, all."""
    return {"include_num_input_tokens_seen": "all" if recipe.data.packing else "non_padding"}


def inputs_of(upstream: Upstream) -> dict[str, Path]:
    """Where model, tokens and template lie."""
    return {
        "model": upstream["fetch"].folder / "model",
        "tokens": upstream["prepare"].path("train.tokens.safetensors"),
        "template": upstream["prepare"].path("chat_template.jinja"),
    }
