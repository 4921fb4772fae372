"""Keys and values that people know from other tools, or write one level off: what is meant here.

One table each. A name on the left is never one of ours at that place: it is looked up only after
the schema has refused it. Names are those of Transformers, PEFT, TRL, axolotl, LLaMA Factory and
Unsloth.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

_EPOCHS = "train.num_train_epochs"
_BATCH = "train.per_device_train_batch_size"
_MODEL = "model.hub"
_LENGTH = "data.max_length"
_HELD_OUT = "data.validation.fraction"

# Key as it is known elsewhere -> our dotted key, and what more there is to say.
KEYS: dict[str, tuple[str, str]] = {
    **dict.fromkeys(("epochs", "num_epochs", "n_epochs"), (_EPOCHS, "")),
    **dict.fromkeys(("lr", "learning_rate_init"), ("train.learning_rate", "")),
    **dict.fromkeys(
        ("batch_size", "micro_batch_size", "train_batch_size", "per_device_batch_size"),
        (_BATCH, ""),
    ),
    **dict.fromkeys(
        ("gradient_accumulation", "grad_accum_steps", "accumulation_steps"),
        ("train.gradient_accumulation_steps", ""),
    ),
    **dict.fromkeys(("lora_r", "lora_rank", "rank"), ("train.adapter.r", "")),
    "alpha": ("train.adapter.lora_alpha", ""),
    "dropout": ("train.adapter.lora_dropout", ""),
    **dict.fromkeys(("lora_target", "lora_target_modules"), ("train.adapter.target_modules", "")),
    "lora_target_linear": ("train.adapter.target_modules", "target_modules: all-linear"),
    "lora_modules_to_save": ("train.adapter.modules_to_save", ""),
    **dict.fromkeys(
        ("finetuning_type", "peft_type", "use_lora", "lora"), ("train.adapter.type", "")
    ),
    **dict.fromkeys(("peft", "peft_config", "lora_config"), ("train.adapter", "")),
    "stage": ("train.method", ""),
    **dict.fromkeys(("optimizer", "optimiser"), ("train.optim", "")),
    **dict.fromkeys(("lr_scheduler", "scheduler"), ("train.lr_scheduler_type", "")),
    **dict.fromkeys(
        ("warmup_ratio", "warmup"), ("train.warmup_steps", "a number of steps, not a part of them")
    ),
    **dict.fromkeys(("gradient_clipping", "max_norm", "grad_clip"), ("train.max_grad_norm", "")),
    "fp16": ("model.dtype", "dtype: float16"),
    **dict.fromkeys(("torch_dtype", "compute_dtype"), ("model.dtype", "")),
    **dict.fromkeys(
        ("model_name_or_path", "base_model", "model_name", "model_id", "pretrained_model"),
        (_MODEL, "or model.path for a folder of yours"),
    ),
    **dict.fromkeys(("flash_attention", "attention"), ("model.attn_implementation", "")),
    **dict.fromkeys(("load_in_8bit", "quantization_bit"), ("model.quantization", "4 bits only")),
    **dict.fromkeys(("bnb_config", "quantization_config"), ("model.quantization", "")),
    **dict.fromkeys(
        ("dataset", "datasets", "dataset_name", "dataset_path", "data_path", "train_file"),
        ("data.train", "a list of files, each with its format"),
    ),
    **dict.fromkeys(("interleave_probs", "mix_strategy"), ("data.train", "a weight of each file")),
    **dict.fromkeys(("max_samples", "num_samples"), ("data.train", "a limit of each file")),
    **dict.fromkeys(("val_size", "val_set_size", "test_size"), (_HELD_OUT, "")),
    **dict.fromkeys(("eval_dataset", "validation_file"), ("data.validation.files", "")),
    **dict.fromkeys(
        ("cutoff_len", "sequence_len", "max_seq_length", "max_seq_len", "model_max_length"),
        (_LENGTH, ""),
    ),
    "template": ("data.chat_template", ""),
    "system_prompt": ("data.system", ""),
    "sample_packing": ("data.packing", ""),
    **dict.fromkeys(("random_seed", "data_seed"), ("seed", "")),
    **dict.fromkeys(("output_dir", "run_name"), ("name", "results go to the folder runs/NAME")),
    "quantization_method": ("gguf.quantize", ""),
}

# Pointer and value as they are known elsewhere -> the hint.
_QLORA = "QLoRA is adapter.type lora + model.quantization: {load_in_4bit: true}"
_NO_ADAPTER = "train.adapter: {type: none} trains every weight"
VALUES: dict[tuple[str, str], str] = {
    ("/train/adapter/type", "qlora"): _QLORA,
    ("/train/adapter/type", "dora"): "DoRA is adapter.type lora + use_dora: true",
    ("/train/adapter/type", "rslora"): "rsLoRA is adapter.type lora + use_rslora: true",
    **{("/train/adapter/type", name): "type: none trains every weight" for name in ("full", "fft")},
    ("/train/adapter/type", "freeze"): "write type: none and trainable_layers: 2, the last two",
    ("/train/method", "qlora"): _QLORA,
    ("/train/method", "lora"): "LoRA is train.adapter: {type: lora}, whatever the method",
    ("/train/method", "full"): _NO_ADAPTER,
    **{("/model/dtype", name): "write bfloat16" for name in ("bf16", "auto")},
    **{("/model/dtype", name): "write float16" for name in ("fp16", "half")},
    ("/model/dtype", "fp32"): "write float32",
}


def hint_for_key(key: str, pointer: str) -> str:
    """What to write instead of the unknown `key` of the mapping at `pointer`; "" for no idea."""
    target, more = _meant(key)
    if not target:
        return ""
    place, _, name = target.rpartition(".")
    here = pointer.lstrip("/").replace("/", ".")
    if place == here and name == key:
        return ""  # the file is no recipe: what is a key of those is none of its own
    what = f'write "{name}"' if place == here else f"write {target}"
    if place != here and name == key:
        what = f"it belongs to {place}: {target}" if place else "it belongs to the top level"
    return f"{what} ({more})" if more else what


def same_place(key: str, pointer: str) -> str | None:
    """The key of the very mapping at `pointer` that the unknown `key` stands for, if any."""
    place, _, name = _meant(key)[0].rpartition(".")
    return name if name and place == pointer.lstrip("/").replace("/", ".") else None


def hint_for_value(value: Any, pointer: str) -> str:
    """What to write instead of a `value` that is no value of `pointer`; "" for no idea."""
    return VALUES.get((pointer, value.lower()), "") if isinstance(value, str) else ""


def _meant(key: str) -> tuple[str, str]:
    """The dotted key that is meant, from the table or because it is a key of one other place."""
    if key in KEYS:
        return KEYS[key]
    places = _places().get(key, ())
    return (places[0], "") if len(places) == 1 else ("", "")


@functools.cache
def _places() -> dict[str, tuple[str, ...]]:
    """Name of a key -> its dotted places in a recipe, those inside of lists left out."""
    from runner.recipe.schema import load_schema

    found: dict[str, dict[str, None]] = {}
    for name, place in _keys(load_schema(), ""):
        found.setdefault(name, {})[f"{place}.{name}".lstrip(".")] = None
    return {name: tuple(places) for name, places in found.items()}


def _keys(schema: dict[str, Any], place: str) -> Iterator[tuple[str, str]]:
    for name, child in schema.get("properties", {}).items():
        yield name, place
        yield from _keys(child, f"{place}.{name}".lstrip("."))
    for branch in schema.get("oneOf", ()):
        yield from _keys(branch, place)
