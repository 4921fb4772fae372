"""Backend `native`: Hugging Face's own trainers, in scripts of this project."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from runner.backends.trainer_arguments import SAME, weights_that_learn
from runner.recipe.methods import METHODS, settings_of
from runner.recipe.model import quantization_spec

if TYPE_CHECKING:
    from runner.recipe.model import Adapter, Recipe

ENVIRONMENT = "native"
OWN_ENVIRONMENTS: Mapping[str, str] = {"ppo": "ppo"}  # an older TRL
# tests/integration/test_train_native.py, test_pretraining.py, test_train_preferences.py,
# test_grpo.py and test_ppo.py
PROVED_TO_RESUME = frozenset(
    {"sft", "pretrain", "dpo", "orpo", "simpo", "kto", "reward", "grpo", "ppo"}
)
NEEDS_CUDA = False

# every other method compares answers
_SCRIPTS = {
    **dict.fromkeys(("sft", "pretrain"), "train_native"),
    "grpo": "train_grpo_native",
    "ppo": "train_ppo",
}
# methods that learn from packs; pairs and sampled answers do not
PACKED = frozenset({"sft", "pretrain"})
_SETTINGS = (
    "method",
    "max_steps",
    "num_train_epochs",
    *SAME,
    "gradient_checkpointing",
)


def script(recipe: Recipe) -> str:
    """Name of the script that trains."""
    if recipe.train.all_processes > 1:
        return "train_shared"
    return _SCRIPTS.get(recipe.train.method, "train_preference_native")


def spec(recipe: Recipe) -> dict[str, Any]:
    """Settings under the trainer's own names, and what of model and data it must know."""
    return {
        **{name: getattr(recipe.train, name) for name in _SETTINGS},
        **settings_of(recipe.train),
        # the head of a twin's reward model is drawn, where a real one must have it
        **({"shrunken": True} if recipe.shrink is not None and recipe.reward is not None else {}),
        "seed": recipe.seed,
        "dtype": recipe.model.dtype,
        "attn_implementation": recipe.model.attn_implementation,
        "adapter": _adapter(recipe.train.adapter),
        "packing": recipe.data.packing,
        "has_prompts": all(file.format != "text" for file in recipe.data.train),
        # how many threads a process has follows from it, too
        **({"processes": recipe.train.processes} if recipe.train.processes > 1 else {}),
        **({"nodes": recipe.train.nodes} if recipe.train.nodes > 1 else {}),
        # left out where it says nothing, as every neutral default
        **({"trust_remote_code": True} if recipe.model.trust_remote_code else {}),
        **quantization_spec(recipe.model),
    }


def cannot_honour(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """What schema 1 can say and this backend cannot do."""
    if recipe.train.template != "shared":
        yield "/train/template", "only LLaMA Factory has templates of its own; native is shared"
    targets = recipe.train.adapter.target_modules
    if targets == "lm_head" or (not isinstance(targets, str) and "lm_head" in targets):
        yield (
            "/train/adapter/target_modules",
            "TRL trains no adapter on lm_head; modules_to_save trains it as a whole",
        )
    if recipe.data.packing and recipe.train.method not in PACKED:
        does = "asks" if METHODS[recipe.train.method].generates else "compares"
        what = "whole prompts" if does == "asks" else "whole answers"
        yield "/data/packing", f"{recipe.train.method} {does} {what}, and packs mix them"
    if recipe.train.method == "ppo":
        yield from _ppo_cannot_honour(recipe)
    if recipe.model.dtype == "float16" and recipe.train.bf16:
        yield "/train/bf16", "bf16 autocast over float16 weights mixes two 16-bit formats"
    held = recipe.model.quantization
    if held and held.bnb_4bit_compute_dtype != "bfloat16" and recipe.train.bf16:
        yield (
            "/model/quantization/bnb_4bit_compute_dtype",
            f"bf16 autocast computes in bfloat16, not in {held.bnb_4bit_compute_dtype}",
        )


def _ppo_cannot_honour(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """TRL's PPO trainer has a loop of its own, which knows less than Transformers' trainer."""
    for name in ("bf16", "gradient_checkpointing"):
        if getattr(recipe.train, name):
            yield f"/train/{name}", f"TRL's PPO trainer does nothing of train.{name}"
    if recipe.model.trust_remote_code:
        message = "ppo runs no code of a model's own: it takes the model apart"
        yield "/model/trust_remote_code", message


def _adapter(adapter: Adapter) -> dict[str, Any]:
    if adapter.type == "none":
        return weights_that_learn(adapter)
    settings = {
        "type": adapter.type,
        "r": adapter.r,
        "lora_alpha": adapter.lora_alpha,
        "lora_dropout": adapter.lora_dropout,
        "target_modules": _names(adapter.target_modules),
    }
    # What changes nothing is left out: a recipe that does not use it keeps its key.
    more = {
        "use_dora": adapter.use_dora,
        "use_rslora": adapter.use_rslora,
        "lora_bias": adapter.lora_bias,
        "exclude_modules": _names(adapter.exclude_modules),
        "modules_to_save": _names(adapter.modules_to_save),
        "rank_pattern": dict(adapter.rank_pattern),
        "alpha_pattern": dict(adapter.alpha_pattern),
    }
    return settings | {name: value for name, value in more.items() if value}


def _names(modules: str | tuple[str, ...]) -> str | list[str]:
    """A word or a regular expression as it is; names in an order that says nothing."""
    return modules if isinstance(modules, str) else sorted(modules)
