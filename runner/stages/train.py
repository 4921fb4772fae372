"""Train on the prepared tokens; the recipe's backend decides by which program."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.backends import environment_of, load_backend
from runner.recipe.methods import METHODS
from runner.stages import fetch_reward, prepare
from runner.stages.contract import Class, Context, Upstream
from runner.stages.rows.plain import plain

if TYPE_CHECKING:
    from runner.recipe.model import Recipe

NAME = "train"
VERSION = 2
OUTPUTS = {
    "adapter/*": Class.PLATFORM,
    "model/*": Class.PLATFORM,
    "trace.jsonl": Class.PLATFORM,
    "template/*": Class.PLATFORM,  # with a template of the backend's own
}
NEEDS = ("fetch", "fetch_reward", "fetch_data", "prepare")
ENVIRONMENT = "native"  # of the default backend; see `environment`
TOOLS: tuple[str, ...] = ()
DEVICE = True


def wanted(recipe: Recipe) -> bool:
    """Every recipe trains."""
    return True


def environment(recipe: Recipe) -> str:
    """Every backend has its own, and some of its methods."""
    return environment_of(recipe.train)


def borrowed(recipe: Recipe) -> tuple[str, ...]:
    """As of `prepare`, where the rows are read once more."""
    return prepare.borrowed(recipe) if reads_rows(recipe) else ()


def snapshot(recipe: Recipe) -> dict[str, Any]:
    """How this processor multiplies in bfloat16, for the recipes that do; rows that are read."""
    from runner.system.determinism import bfloat16_path

    held = recipe.model.quantization is not None  # 4-bit weights are multiplied in 16 bits
    half = held or recipe.train.bf16 or recipe.model.dtype != "float32"
    path = bfloat16_path() if half else ""
    rows = prepare.snapshot(recipe) if reads_rows(recipe) else {}
    return {**({"bfloat16_path": path} if path else {}), **rows}


def key_inputs(recipe: Recipe, upstream: Upstream) -> dict[str, Any]:
    """Backend, its settings, and the contents of model and tokens.

    Checkpoints (`save_steps`, `save_total_limit`) and the canary decide nothing.
    """
    return {
        "backend": recipe.train.backend,
        "settings": load_backend(recipe.train.backend).spec(recipe),
        "model": upstream["fetch"].digest("model/*"),
        "tokens": upstream["prepare"].digest("train.tokens.safetensors"),
        # A fully tuned model is a model folder of its own, template included.
        "template": upstream["prepare"].digest("chat_template.jinja")
        if recipe.train.adapter.type == "none"
        else None,
        **fetch_reward.key_fact(upstream),
        # the first of these learnt from the last batch of a pass in more steps than from others,
        # and cut the answers that it told of by the next batch's prompts
        **({"loop": 2} if recipe.train.method == "ppo" else {}),
        # The rows themselves are read by the backend's own template.
        **({"rows": upstream["prepare"].key} if reads_rows(recipe) else {}),
    }


def reads_rows(recipe: Recipe) -> bool:
    """Does the backend read the rows themselves, and not the tokens of `prepare` alone?"""
    return recipe.train.template != "shared"


def generates(recipe: Recipe) -> bool:
    """Does the model learn from answers that it gives meanwhile?"""
    return METHODS[recipe.train.method].generates


def resumable(scratch: Path) -> bool:
    """Is there a complete checkpoint to go on from?"""
    from runner.scripts.training.checkpoints import complete_checkpoints

    return bool(complete_checkpoints(scratch / "checkpoints"))


def resume_is_proved(recipe: Recipe) -> bool:
    """Is this backend's method tested to give the same bytes after an interruption?"""
    return recipe.train.method in load_backend(recipe.train.backend).PROVED_TO_RESUME


def run(recipe: Recipe, inputs: Upstream, folder: Path, context: Context) -> None:
    """Write `adapter/` (or `model/`) and `trace.jsonl` into `folder`. Raises StageFailed."""
    from runner.execution.device import has_device, missing_device

    backend = load_backend(recipe.train.backend)
    own = reads_rows(recipe)
    if not has_device(recipe):
        raise missing_device(recipe)
    context.run_script(
        backend.script(recipe),
        {
            "settings": backend.spec(recipe),
            "save_steps": recipe.train.save_steps,
            "save_total_limit": recipe.train.save_total_limit,
            **({} if recipe.train.canary else {"canary": False}),
            # a small random model earns nothing, and --shrink is about whether everything fits
            **({"signal_required": recipe.shrink is None} if generates(recipe) else {}),
            **({"rows": prepare.reading(recipe)} if own else {}),
        },
        inputs={
            "model": inputs["fetch"].folder / "model",
            "tokens": inputs["prepare"].path("train.tokens.safetensors"),
            "template": inputs["prepare"].path("chat_template.jinja"),
            **fetch_reward.places(inputs),
            **(plain(prepare.rows_of(recipe, inputs), context) if own else {}),
        },
        folder=folder,
        environment=environment_of(recipe.train),
        processes=recipe.train.processes,
        machines=recipe.train.nodes,
    )
