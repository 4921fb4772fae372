"""Backend `unsloth`: Unsloth's own loading, kernels and trainer, on an NVIDIA GPU alone.

It is fed the tokens of `prepare`. Its bytes are not those of `native`: its kernels round otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from runner.backends.trainer_arguments import SAME

if TYPE_CHECKING:
    from runner.recipe.model import Adapter, Recipe

ENVIRONMENT = "unsloth"
OWN_ENVIRONMENTS: Mapping[str, str] = {}
PROVED_TO_RESUME: frozenset[str] = frozenset()  # no run on a GPU was compared
NEEDS_CUDA = True


def script(recipe: Recipe) -> str:
    """Name of the script that trains."""
    return "train_unsloth"


def spec(recipe: Recipe) -> dict[str, Any]:
    """Arguments of Unsloth's calls by their own names: `load` of FastLanguageModel.from_pretrained,
    `adapter` of get_peft_model, `trainer` of SFTConfig. Paths and the modules' names are added by
    the script. Everything that a default of Unsloth's could decide otherwise is given.
    """
    return {
        "load": _load(recipe),
        "adapter": _adapter(recipe),
        "trainer": _trainer(recipe),
        "has_prompts": all(file.format != "text" for file in recipe.data.train),
    }


def _load(recipe: Recipe) -> dict[str, Any]:
    in_4_bits = recipe.model.quantization is not None
    return {
        "max_seq_length": recipe.data.max_length,
        "dtype": recipe.model.dtype,
        "load_in_4bit": in_4_bits,
        "load_in_8bit": False,
        "load_in_16bit": not in_4_bits,
        "full_finetuning": False,
        "trust_remote_code": recipe.model.trust_remote_code,
        "use_gradient_checkpointing": recipe.train.gradient_checkpointing,
        "random_state": recipe.seed,  # its own is 3407, whatever the trainer's seed
        "use_exact_model_name": True,  # or a name could become another repository's
        "fix_tokenizer": False,  # the tokens are made; it would add some to the vocabulary
        "offload_embedding": False,
        "fast_inference": False,
    }


def _adapter(recipe: Recipe) -> dict[str, Any]:
    adapter, targets = recipe.train.adapter, recipe.train.adapter.target_modules
    return {
        "r": adapter.r,
        "target_modules": targets if isinstance(targets, str) else sorted(targets),
        "lora_alpha": adapter.lora_alpha,
        "lora_dropout": adapter.lora_dropout,
        "bias": "none",
        "use_rslora": adapter.use_rslora,
        "use_gradient_checkpointing": recipe.train.gradient_checkpointing,
        "random_state": recipe.seed,
    }


def _trainer(recipe: Recipe) -> dict[str, Any]:
    train = recipe.train
    length = "num_train_epochs" if train.max_steps is None else "max_steps"
    return {
        length: getattr(train, length),
        **{name: getattr(train, name) for name in SAME},
        "fp16": False,
        "gradient_checkpointing": train.gradient_checkpointing,
        "seed": recipe.seed,
        "data_seed": recipe.seed,
        "max_length": recipe.data.max_length,
        "packing": False,
        "padding_free": False,  # else it decides by the rows
    }


def cannot_honour(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """What schema 1 can say and Unsloth is not told, or would do in another way."""
    train, model = recipe.train, recipe.model
    if train.method != "sft":
        yield "/train/method", f"{train.method} is not handed to Unsloth; sft is"
    if train.template != "shared":
        yield "/train/template", "only LLaMA Factory has templates of its own; unsloth is shared"
    if recipe.data.packing:
        yield "/data/packing", "Unsloth packs rows in a way of its own, and not those of prepare"
    if model.attn_implementation != "sdpa":
        yield (
            "/model/attn_implementation",
            f"Unsloth has attention kernels of its own and takes no {model.attn_implementation}",
        )
    if model.dtype != "bfloat16":
        yield "/model/dtype", f"Unsloth is given bfloat16 weights here, not {model.dtype}"
    if not train.bf16:
        message = "Unsloth computes in bfloat16, as the weights are: train.bf16 has to be true"
        yield "/train/bf16", message
    yield from _other_quantization(recipe)
    yield from _other_adapter(train.adapter)


def _other_quantization(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Unsloth quantises in one way."""
    held = recipe.model.quantization
    if held is None:
        return
    own = {
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": "bfloat16",
    }
    for name, value in own.items():
        if (given := getattr(held, name)) != value:
            word = str(value).lower() if isinstance(value, bool) else value
            said = str(given).lower() if isinstance(given, bool) else given
            yield (
                f"/model/quantization/{name}",
                f"Unsloth holds 4-bit weights with {name}: {word}, not {said}",
            )


def _other_adapter(adapter: Adapter) -> Iterator[tuple[str, str]]:
    if adapter.type == "none":
        yield "/train/adapter/type", "full fine-tuning is not handed to Unsloth; adapters are"
        return
    if adapter.use_dora:
        yield "/train/adapter/use_dora", "Unsloth's kernels are of LoRA without DoRA's magnitudes"
    if adapter.lora_bias:
        yield "/train/adapter/lora_bias", "Unsloth's kernels add no bias to an adapter"
    if adapter.modules_to_save:
        yield (
            "/train/adapter/modules_to_save",
            "Unsloth moves embeddings that it trains to the disk, which is not shown to give the "
            "same adapter",
        )
    for name in ("exclude_modules", "rank_pattern", "alpha_pattern"):
        if getattr(adapter, name):
            yield f"/train/adapter/{name}", f"Unsloth's get_peft_model has no {name}"
    targets = adapter.target_modules
    if isinstance(targets, str) and targets not in ("all-linear", "all-attention"):
        yield (
            "/train/adapter/target_modules",
            "Unsloth's kernels go by the names of modules, not by a regular expression",
        )
    elif "lm_head" in targets or "embed_tokens" in targets:
        message = "Unsloth trains lm_head and embed_tokens as a whole where they are targets"
        yield "/train/adapter/target_modules", message
