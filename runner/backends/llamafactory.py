"""Backend `llamafactory`: LLaMA Factory's trainer, configured by the recipe alone.

It is fed the tokens of `prepare`, so its own templates and its own reading of the data play no
part: docs/decisions/0001 says what makes its adapter equal to `native`'s, byte for byte.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.backends import llamafactory_preferences as preferences
from runner.backends.trainer_arguments import SAME, weights_that_learn
from runner.errors import UsageError

if TYPE_CHECKING:
    from runner.recipe.model import Adapter, Quantization, Recipe

ENVIRONMENT = "llamafactory"
OWN_ENVIRONMENTS: Mapping[str, str] = {}
# tests/integration/test_train_llamafactory.py and test_preferences_llamafactory.py
PROVED_TO_RESUME = frozenset({"sft", "pretrain"}) | preferences.PROVED_TO_RESUME
NEEDS_CUDA = False

# method -> what LLaMA Factory calls it
_STAGES = {"sft": "sft", "pretrain": "pt"} | preferences.STAGES
# attn_implementation -> flash_attn
_ATTENTION = {"eager": "disabled", "sdpa": "sdpa"}


def script(recipe: Recipe) -> str:
    """Name of the script that trains."""
    if recipe.train.method in preferences.STAGES:
        return "train_preference_llamafactory"
    return "train_llamafactory"


def spec(recipe: Recipe) -> dict[str, Any]:
    """LLaMA Factory's configuration, and what the script must know beside it."""
    return {
        "configuration": configuration(recipe),
        "adapter": _adapter(recipe.train.adapter),
        "dtype": recipe.model.dtype,
        "packing": recipe.data.packing,
        "has_prompts": all(file.format != "text" for file in recipe.data.train),
        **({"own_template": name} if (name := recipe.train.template) != "shared" else {}),
    }


def configuration(recipe: Recipe) -> dict[str, Any]:
    """What stands in the file for `llamafactory-cli train`, but for paths and the target modules.

    Everything that a default of LLaMA Factory could decide otherwise is given.
    """
    train = recipe.train
    length = "num_train_epochs" if train.max_steps is None else "max_steps"
    return {
        "stage": _STAGES[train.method],
        "do_train": True,
        **preferences.settings(train),
        **_tuning(train.adapter),
        "trust_remote_code": recipe.model.trust_remote_code,
        "flash_attn": _ATTENTION[recipe.model.attn_implementation],
        length: getattr(train, length),
        **{name: getattr(train, name) for name in SAME},
        "disable_gradient_checkpointing": not train.gradient_checkpointing,
        "use_reentrant_gc": True,
        "packing": recipe.data.packing,
        "neat_packing": recipe.data.packing,  # documents of one pack do not see each other
        "seed": recipe.seed,
        "data_seed": recipe.seed,
        "dataloader_num_workers": 0,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "steps",
        "report_to": "none",
        "plot_loss": False,
        "upcast_layernorm": False,
        **(_quantization(held) if (held := recipe.model.quantization) else {}),
    }


def cannot_honour(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """What schema 1 can say and LLaMA Factory would ignore, or do in another way."""
    if recipe.train.method not in _STAGES:
        yield "/train/method", f"LLaMA Factory 0.9.5 has no {recipe.train.method}"
    yield from preferences.cannot_honour(recipe)
    yield from _unknown_adapter_settings(recipe.train.adapter)
    if recipe.train.template != "shared":
        yield from _without_own_template(recipe)
    if recipe.train.method == "pretrain" and recipe.data.packing:
        yield (
            "/data/packing",
            "the documents of one pack would see each other in LLaMA Factory's pre-training; its "
            "fine-tuning (method: sft) keeps them apart",
        )
    if recipe.model.dtype == "float16":
        yield "/model/dtype", "LLaMA Factory is not shown to train on float16 weights as others do"
    if recipe.train.adapter.trainable_layers is not None and recipe.model.dtype != "float32":
        yield (
            "/model/dtype",
            "LLaMA Factory leaves what does not learn in its own dtype, so with trainable_layers "
            "the model has to be float32",
        )
    held = recipe.model.quantization
    if held and not (recipe.train.bf16 and held.bnb_4bit_compute_dtype == "bfloat16"):
        yield (
            "/model/quantization",
            "LLaMA Factory chooses what it computes in by the machine, unless train.bf16 is true "
            "and bnb_4bit_compute_dtype is bfloat16",
        )


def own_templates() -> list[str]:
    """Names of LLaMA Factory's own templates; a test holds them against the environment's."""
    path = Path(__file__).with_name("llamafactory_templates.txt")
    return path.read_text(encoding="utf-8").split()


def require_shared_tokens(recipe: Recipe) -> None:
    """For what hands on the shared tokens alone. Raises UsageError (E533)."""
    if recipe.train.template != "shared":
        raise UsageError(
            "the shared tokens are trained on here, and the recipe has LLaMA Factory's own "
            f"template {recipe.train.template}",
            hint="add --set train.template=shared",
            code="E533",
        )


def _without_own_template(recipe: Recipe) -> Iterator[tuple[str, str]]:
    if recipe.train.method != "sft":
        yield "/train/template", f"{recipe.train.method} is trained on the shared tokens only"
    if recipe.data.packing:
        yield "/data/packing", "packs are made of the shared tokens; LLaMA Factory fills its own"
    if any(file.format == "text" for file in recipe.data.train):
        yield "/train/template", "rows of format text are written by no template"


def _unknown_adapter_settings(adapter: Adapter) -> Iterator[tuple[str, str]]:
    if adapter.type == "none":
        return
    for name in ("exclude_modules", "rank_pattern", "alpha_pattern", "lora_bias"):
        if getattr(adapter, name):
            yield f"/train/adapter/{name}", f"LLaMA Factory has no {name}"
    targets = adapter.target_modules
    if isinstance(targets, str) and targets not in ("all-linear", "all-attention"):
        yield (
            "/train/adapter/target_modules",
            "LLaMA Factory takes names of modules, not a regular expression",
        )
    if adapter.modules_to_save:
        yield (
            "/train/adapter/modules_to_save",
            "LLaMA Factory's additional_target is not shown to give the same bytes",
        )


def _tuning(adapter: Adapter) -> dict[str, Any]:
    if adapter.type == "none" and adapter.trainable_layers is None:
        return {"finetuning_type": "full"}
    if adapter.type == "none":
        return {
            "finetuning_type": "freeze",
            "freeze_trainable_layers": adapter.trainable_layers,
            "freeze_trainable_modules": ",".join(sorted(adapter.trainable_modules)) or "all",
        }
    return {
        "finetuning_type": "lora",
        "lora_rank": adapter.r,
        "lora_alpha": adapter.lora_alpha,
        "lora_dropout": adapter.lora_dropout,
        "use_dora": adapter.use_dora,
        "use_rslora": adapter.use_rslora,
    }


def _adapter(adapter: Adapter) -> dict[str, Any]:
    """What the target modules are found by, in the model itself."""
    if adapter.type == "none":
        return weights_that_learn(adapter)
    targets = adapter.target_modules
    return {
        "type": adapter.type,
        "r": adapter.r,
        "target_modules": targets if isinstance(targets, str) else sorted(targets),
        **({"use_dora": True} if adapter.use_dora else {}),
    }


def _quantization(held: Quantization) -> dict[str, Any]:
    return {
        "quantization_bit": 4,
        "quantization_method": "bnb",
        "quantization_type": held.bnb_4bit_quant_type,
        "double_quantization": held.bnb_4bit_use_double_quant,
    }
