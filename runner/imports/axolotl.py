"""A configuration of axolotl, by its documented settings and its own defaults."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from runner.capture.captured import Captured, Fate
from runner.capture.data_sets import Inexpressible
from runner.imports.axolotl_settings import (
    ATTENTION_FLAGS,
    CANNOT,
    DATA,
    LORA,
    LORA_IF_GIVEN,
    MAPPED,
    NO_EFFECT,
    PATTERNS,
    PRECISION,
    TRAIN,
)
from runner.imports.comparing import fill_adapter, note_loss, note_packing
from runner.imports.data import (
    NEEDS_A_FILE,
    ROWS,
    add_validation,
    hub_rows,
    local_rows,
    require_rows,
    rows_given,
)
from runner.imports.document import Document
from runner.imports.methods import METHODS, method_of
from runner.imports.models import add_model
from runner.imports.readers import (
    attention,
    names,
    number,
    text,
    whole,
)
from runner.imports.sheet import Field, Sheet, flat
from runner.imports.steps import warm_up
from runner.imports.templates import put_template
from runner.imports.wanted import Wanted

__all__ = ["CANNOT", "MAPPED", "NO_EFFECT", "TOOL", "convert"]

KIND = "axolotl"
TOOL = "axolotl"
READS_PROGRAMS = False

_AS_THEY_ARE = "the rows are taken in a recipe's own form, as they are"
_AS_MESSAGES = "axolotl writes alpaca rows into a text of its own; here they become chat turns"


def is_its(document: Document) -> str:
    """It is told by its settings."""
    return ""


def convert(document: Document, wanted: Wanted) -> Captured:
    """The recipe that trains as the file says. Raises UsageError (E855, E856)."""
    sheet = Sheet(TOOL, dict(flat(document.settings, whole=PATTERNS)))
    made = sheet.made
    method = _method(sheet)
    made.recipe = {"schema": 1, "name": wanted.name}
    sheet.fill({"seed": Field("seed", 42, whole)})
    _model(sheet, wanted)
    _data(sheet, wanted, document.settings, METHODS[method].compared)
    made.recipe["train"] = {"backend": "native", "method": method}
    _adapter(sheet, METHODS[method].compared)
    _length(sheet)
    sheet.fill(TRAIN)
    _accumulation(sheet)
    _precision(sheet)
    _warm_up(sheet, wanted)
    _save_steps(sheet)
    _of_the_method(sheet, method)
    return sheet.finish(MAPPED, NO_EFFECT, CANNOT)


def _method(sheet: Sheet) -> str:
    for name in ("reward_model", "process_reward_model"):
        if sheet.value(name):
            method = method_of(KIND, "reward" if name == "reward_model" else "process reward", name)
            sheet.mapped(name, f"train.method: {method}")
            return method
        if name in sheet.given:
            sheet.note(Fate.NO_EFFECT, name)
    word = str(sheet.value("rl", "sft"))
    method = method_of(KIND, word, "rl")
    if "rl" in sheet.given:
        sheet.mapped("rl", f"train.method: {method}")
    return method


def _of_the_method(sheet: Sheet, method: str) -> None:
    """Its own settings; an ORPO's weight has two names."""
    if method == "orpo" and sheet.has("orpo_alpha") and not sheet.has("rl_beta"):
        sheet.fill({"orpo_alpha": Field("train.beta", 0.1, number)})
        return
    fields = dict(METHODS[method].settings.get(KIND, {}))
    if sheet.value("rl") == "ipo":
        loss = fields.pop("dpo_loss_type")
        sheet.put(loss.target, "ipo", "rl")
        sheet.mapped("rl", f"{loss.target}: ipo")
        if "dpo_loss_type" in sheet.given:
            sheet.note(Fate.NO_EFFECT, "dpo_loss_type", why="rl says it")
    sheet.fill(fields)
    note_loss(sheet, method)


# --- the model


def _model(sheet: Sheet, wanted: Wanted) -> None:
    revision = "model_revision" if sheet.has("model_revision") else "revision_of_model"
    add_model(sheet, wanted, "base_model", revision)
    if sheet.value("trust_remote_code"):
        why = "not copied: say model.trust_remote_code only for a model that needs it and you trust"
        sheet.note(Fate.WARNING, "trust_remote_code", why=why)
    elif "trust_remote_code" in sheet.given:
        sheet.note(Fate.NO_EFFECT, "trust_remote_code")
    sheet.put("model.dtype", _dtype(sheet), "bf16")
    _attention(sheet)


def _dtype(sheet: Sheet) -> str:
    """axolotl loads the weights in the type that it computes in."""
    if sheet.value("bf16", "auto") not in (False, "false", "no") or sheet.value("bfloat16"):
        return "bfloat16"
    half = sheet.value("fp16") or sheet.value("float16") or sheet.value("load_in_8bit")
    return "float16" if half else "float32"


def _attention(sheet: Sheet) -> None:
    flags = [name for name in ATTENTION_FLAGS if sheet.value(name)]
    for name in ATTENTION_FLAGS:
        if name in sheet.given and name not in flags:
            sheet.note(Fate.NO_EFFECT, name)
    if flags and not sheet.has("attn_implementation"):
        read = attention(ATTENTION_FLAGS[flags[0]])
        sheet.put("model.attn_implementation", read.value, flags[0])
        for name in flags:
            becomes = f"model.attn_implementation: {read.value}"
            if read.why:
                sheet.close(name, read.why, becomes)
            else:
                sheet.mapped(name, becomes)
        return
    for name in flags:
        sheet.note(Fate.NO_EFFECT, name, why="attn_implementation says it")
    sheet.fill({"attn_implementation": Field("model.attn_implementation", "sdpa", attention)})


# --- the data


def _data(sheet: Sheet, wanted: Wanted, settings: dict[str, Any], compared: str) -> None:
    listed = settings.get("datasets")
    leaves = [name for name in sheet.given if name == "datasets" or name.startswith("datasets[")]
    if not rows_given(sheet, wanted, leaves):
        _files(sheet, wanted, listed if isinstance(listed, list) else [], compared)
    _held_out(sheet, wanted, settings.get("test_datasets"), compared)
    if sheet.has("default_system_message"):
        sheet.fill({"default_system_message": Field("data.system", "", text)})
    template = str(sheet.value("chat_template", "tokenizer_default"))
    sheet.put("data.chat_template", "model", "chat_template")
    if template == "tokenizer_default" and "chat_template" in sheet.given:
        sheet.mapped("chat_template", "data.chat_template: model")
    elif "chat_template" in sheet.given and not put_template(
        sheet, template, "chat_template", "axolotl"
    ):
        why = "the model's own template, which may differ from axolotl's of that name"
        sheet.close("chat_template", why, "data.chat_template: model")
    sheet.fill(DATA)
    note_packing(sheet, "sample_packing", compared)
    if sheet.value("train_on_inputs", False):
        sheet.lost("train_on_inputs", "a recipe trains on answers, not on prompts")
    elif "train_on_inputs" in sheet.given:
        sheet.mapped("train_on_inputs", "only answers are trained on")


def _files(sheet: Sheet, wanted: Wanted, listed: list[Any], compared: str) -> None:
    files, why = [], []
    for index, entry in enumerate(listed):
        name = f"datasets[{index}]"
        try:
            if not isinstance(entry, dict):
                raise Inexpressible("it is no data set with a path")
            whole, part = _part_of(entry)
            items = list(_entry(sheet, wanted, name, whole, compared))
            files += [item | part for item in items]
            _note_part(sheet, name, entry, part)
        except Inexpressible as error:
            why.append(f"{entry.get('path') if isinstance(entry, dict) else entry}: {error}")
            for leaf, _ in flat({name: entry}):
                sheet.lost(leaf, str(error))
    require_rows(sheet, _each_once(files), why)


def _part_of(entry: dict[str, Any]) -> tuple[dict[str, Any], dict[str, float]]:
    """A data set without its `shards`, and which part of its rows one of them is."""
    shards = entry.get("shards")
    if not isinstance(shards, int) or isinstance(shards, bool) or shards < 2:
        return entry, {}
    return {key: entry[key] for key in entry if key not in _SHARDS}, {"repeat": 1 / shards}


def _note_part(sheet: Sheet, name: str, entry: dict[str, Any], part: dict[str, float]) -> None:
    for key in _SHARDS:
        if part and key in entry:
            why = "other rows: those that the hash of their content chooses"
            sheet.close(f"{name}.{key}", why, f"repeat: {part['repeat']:g}")


def _each_once(files: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Files that are named several times once, repeated as often: a recipe names each once."""
    found: list[dict[str, Any]] = []
    for file in files:
        plain = {key: value for key, value in file.items() if key != "repeat"}
        same = next(
            (each for each in found if {**each, "repeat": 0} == {**plain, "repeat": 0}), None
        )
        if same is None:
            found.append(file)
        else:
            same["repeat"] = same.get("repeat", 1) + file.get("repeat", 1)
    return found


def _entry(
    sheet: Sheet, wanted: Wanted, name: str, entry: dict[str, Any], compared: str
) -> Iterator[dict[str, Any]]:
    """The files of one data set, with a note for each of its keys. Raises Inexpressible."""
    form, why = (None, _AS_THEY_ARE) if compared else _format(entry)
    path = str(entry.get("path"))
    named = entry.get("data_files") or []
    parts = [named] if isinstance(named, str) else list(named) if isinstance(named, list) else []
    revision = str(entry["revision"]) if entry.get("revision") else None
    if path.endswith(ROWS):
        items = [local_rows(path, form, wanted, compared)]
    elif path in ("json", "jsonl") and parts:
        items = [local_rows(str(part), form, wanted, compared) for part in parts]
    elif parts:
        items = [hub_rows(path, str(part), form, revision) for part in parts]
    else:
        raise Inexpressible(f"it is a data set of the hub, or a folder; {NEEDS_A_FILE}")
    _note_entry(sheet, name, entry, items, why)
    yield from items


def _note_entry(
    sheet: Sheet, name: str, entry: dict[str, Any], items: list[dict[str, Any]], why: str
) -> None:
    places = ", ".join(str(item.get("path") or item["file"]) for item in items)
    for leaf, value in flat(entry, f"{name}."):
        key = leaf.removeprefix(f"{name}.").partition(".")[0].partition("[")[0]
        if key in ("path", "data_files", "revision"):
            sheet.mapped(leaf, f"data.train: {places}")
        elif key == "type" or (why == _AS_THEY_ARE and key.startswith("field_")):
            becomes = f"format: {items[0]['format']}"
            if why:
                sheet.close(leaf, why, becomes)
            else:
                sheet.mapped(leaf, becomes)
        elif key in _ENTRY_NEUTRAL and (value is None or value in _ENTRY_NEUTRAL[key]):
            sheet.note(Fate.NO_EFFECT, leaf)
        elif key in _ENTRY_FORM:
            sheet.mapped(leaf, f"format: {items[0]['format']}")
        else:
            sheet.lost(leaf, "a recipe takes every row of a file, each answer trained on")


# Keys of a data set -> values that change nothing.
_ENTRY_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "ds_type": ("json", "jsonl"),
    "split": ("train",),
    "name": (),
    "trust_remote_code": (False,),
    "roles_to_train": (["assistant"], ["gpt"], ["assistant", "gpt"], ["gpt", "assistant"]),
    "train_on_eos": ("turn",),
    "train_on_eot": ("turn",),
    "chat_template": ("tokenizer_default",),
    "field_messages": ("messages",),
    "message_field_role": ("role",),
    "message_field_content": ("content",),
    "drop_system_message": (False,),
    "shards": (1,),
    "preprocess_shards": (),
    "temperature": (),
    "field": ("text",),
}
_SHARDS = ("shards", "shards_idx")
_ENTRY_FORM = (
    "field_messages", "message_property_mappings", "message_field_role", "message_field_content",
    "roles", "conversation",
)  # fmt: skip
_SHAREGPT = {"role": "from", "content": "value"}


def _format(entry: dict[str, Any]) -> tuple[str, str]:
    """The rows' format, and why it is not quite axolotl's. Raises Inexpressible."""
    kind = entry.get("type")
    if not isinstance(kind, str):
        raise Inexpressible("a prompt of one's own; write the rows as messages (docs/data.md)")
    base, _, variant = kind.partition(".")
    if base == "alpaca" and not variant:
        return "alpaca", _AS_MESSAGES
    if base == "completion" and entry.get("field") in (None, "text"):
        return "text", ""
    if base == "sharegpt" and not variant:
        return "sharegpt", ""
    if base == "chat_template":
        return _turns(entry), ""
    raise Inexpressible(f"rows of type {kind}; write them as messages (docs/data.md)")


def _turns(entry: dict[str, Any]) -> str:
    """Chats with the keys of one of two formats. Raises Inexpressible."""
    mapping = {
        "role": entry.get("message_field_role", "role"),
        "content": entry.get("message_field_content", "content"),
    }
    given = entry.get("message_property_mappings")
    mapping |= given if isinstance(given, dict) else {}
    field = entry.get("field_messages") or "messages"
    if field == "messages" and mapping == {"role": "role", "content": "content"}:
        return "messages"
    if field == "conversations" and mapping == _SHAREGPT:
        return "sharegpt"
    raise Inexpressible(f"its turns are in {field} as {mapping}; write them as messages")


def _held_out(sheet: Sheet, wanted: Wanted, listed: Any, compared: str) -> None:
    leaves = [name for name in sheet.given if name.startswith("test_datasets")]
    files: list[dict[str, Any]] = []
    for index, entry in enumerate(listed if isinstance(listed, list) else []):
        name = f"test_datasets[{index}]"
        try:
            if not isinstance(entry, dict):
                raise Inexpressible("it is no data set with a path")
            whole, part = _part_of(entry)
            items = list(_entry(sheet, wanted, name, whole, compared))
            files += [item | part for item in items]
            _note_part(sheet, name, entry, part)
        except Inexpressible as error:
            for leaf, _ in flat({name: entry}):
                sheet.lost(leaf, str(error))
    if files:
        sheet.put("data.validation", {"files": files}, leaves[0])
        if "val_set_size" in sheet.given:
            sheet.note(Fate.NO_EFFECT, "val_set_size", why="test_datasets says what is held out")
        return
    why = "other rows are held out: those that the hash of their content chooses"
    add_validation(sheet, "val_set_size", 0.0, why)


# --- the training


def _adapter(sheet: Sheet, compared: str) -> None:
    kind = sheet.value("adapter")
    if kind is None:
        sheet.put(
            "train.adapter", {"type": "none"}, "adapter", "axolotl without adapter: all weights"
        )
        if "adapter" in sheet.given:
            sheet.mapped("adapter", "train.adapter.type: none")
        _unused(sheet, "there is no adapter")
        return
    sheet.put("train.adapter", {"type": "lora"}, "adapter")
    if kind in ("lora", "qlora"):
        sheet.mapped("adapter", "train.adapter.type: lora")
    else:
        sheet.lost("adapter", "a recipe has LoRA adapters", "train.adapter.type: lora")
    fill_adapter(sheet, LORA, compared)
    sheet.fill({name: each for name, each in LORA_IF_GIVEN.items() if sheet.has(name)})
    _targets(sheet)
    _quantization(sheet, str(kind))


def _unused(sheet: Sheet, why: str) -> None:
    for name in (*LORA, *LORA_IF_GIVEN, "lora_target_modules", "lora_target_linear",
                 "load_in_4bit", "load_in_8bit", "bnb_config_kwargs"):  # fmt: skip
        for leaf in [each for each in sheet.given if each == name or each.startswith(f"{name}.")]:
            sheet.note(Fate.NO_EFFECT, leaf, why=why)


def _targets(sheet: Sheet) -> None:
    linear = bool(sheet.value("lora_target_linear", False))
    if linear or not sheet.has("lora_target_modules"):
        sheet.put("train.adapter.target_modules", "all-linear", "lora_target_linear")
    if linear:
        sheet.mapped("lora_target_linear", "train.adapter.target_modules: all-linear")
        if sheet.has("lora_target_modules"):
            sheet.note(Fate.NO_EFFECT, "lora_target_modules", why="lora_target_linear means all")
        return
    if "lora_target_linear" in sheet.given:
        sheet.note(Fate.NO_EFFECT, "lora_target_linear")
    if sheet.has("lora_target_modules"):
        each = Field("train.adapter.target_modules", "all-linear", names)
        sheet.fill({"lora_target_modules": each})
        return
    becomes = "train.adapter.target_modules: all-linear"
    why = "axolotl needs lora_target_modules or lora_target_linear, and the file has neither"
    sheet.note(Fate.CLOSE, "lora_target_modules", becomes=becomes, why=why, value="")


def _quantization(sheet: Sheet, kind: str) -> None:
    """QLoRA as axolotl sets it up: NF4, double quantisation, computed in the dtype it loads in."""
    if sheet.value("load_in_8bit", False):
        sheet.lost("load_in_8bit", "a recipe holds a base in 4 bits or in 16; this one is in 16")
    elif "load_in_8bit" in sheet.given:
        sheet.note(Fate.NO_EFFECT, "load_in_8bit")
    if not (sheet.value("load_in_4bit", False) or kind == "qlora"):
        for name in ("load_in_4bit", *_below(sheet, "bnb_config_kwargs")):
            if name in sheet.given:
                sheet.note(Fate.NO_EFFECT, name)
        return
    held: dict[str, Any] = {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": sheet.made.recipe["model"]["dtype"],
    }
    for leaf in _below(sheet, "bnb_config_kwargs"):
        key = leaf.rpartition(".")[2]
        if key in ("bnb_4bit_quant_type", "bnb_4bit_use_double_quant"):
            held[key] = sheet.value(leaf, held[key])
            sheet.mapped(leaf, f"model.quantization.{key}: {held[key]}")
    sheet.put("model.quantization", held, "load_in_4bit")
    if "load_in_4bit" in sheet.given:
        sheet.mapped("load_in_4bit", "model.quantization: NF4 with double quantisation")


def _below(sheet: Sheet, name: str) -> list[str]:
    return [leaf for leaf in sheet.given if leaf.startswith(f"{name}.")]


def _length(sheet: Sheet) -> None:
    steps = sheet.value("max_steps")
    if isinstance(steps, int) and not isinstance(steps, bool) and steps > 0:
        sheet.fill({"max_steps": Field("train.max_steps", 1, whole)})
        if "num_epochs" in sheet.given:
            sheet.note(Fate.NO_EFFECT, "num_epochs", why="max_steps says how long")
        return
    if "max_steps" in sheet.given:
        sheet.note(Fate.NO_EFFECT, "max_steps")
    sheet.fill({"num_epochs": Field("train.num_train_epochs", 1.0, number)})


def _accumulation(sheet: Sheet) -> None:
    """`batch_size` is the older way to say how many rows make a step."""
    name, micro = "gradient_accumulation_steps", sheet.value("micro_batch_size", 1)
    batch = sheet.value("batch_size")
    whole_parts = isinstance(batch, int) and isinstance(micro, int) and micro > 0
    if whole_parts and not sheet.has(name) and batch >= micro:
        sheet.put(f"train.{name}", batch // micro, "batch_size")
        sheet.mapped("batch_size", f"train.{name}: {batch // micro}")
        return
    if "batch_size" in sheet.given:
        sheet.note(Fate.NO_EFFECT, "batch_size", why=f"{name} says it")
    sheet.fill({name: Field(f"train.{name}", 1, whole)})


def _precision(sheet: Sheet) -> None:
    dtype = sheet.made.recipe["model"]["dtype"]
    bf16 = dtype == "bfloat16"
    sheet.put("train.bf16", bf16, "bf16")
    becomes = f"model.dtype: {dtype}, train.bf16: {str(bf16).lower()}"
    asked = sheet.value("bf16", "auto")
    if asked == "auto":
        why = "auto asks the GPU; this is what it is on one with bfloat16"
        if sheet.has("bf16"):
            sheet.close("bf16", why, becomes)
        else:
            sheet.note(Fate.DEFAULT, "bf16", becomes=becomes, why=why, value="auto")
    else:
        sheet.mapped("bf16", becomes)
    if sheet.value("tf32") == "auto":
        sheet.note(Fate.NO_EFFECT, "tf32")
    for name in PRECISION[1:]:
        if name not in sheet.given:
            continue
        if not sheet.value(name):
            sheet.note(Fate.NO_EFFECT, name)
        elif name == "fp16" and not bf16:
            why = "a recipe has no autocast to float16: its weights are float16"
            sheet.close(name, why, becomes)
        elif name in ("fp16", "float16") and bf16:
            sheet.note(Fate.NO_EFFECT, name, why="bf16 wins")
        else:
            sheet.mapped(name, becomes)


def _warm_up(sheet: Sheet, wanted: Wanted) -> None:
    """Steps, a part of them, or axolotl's own 3 per cent, at most 100; it makes 2 of 1."""
    if sheet.has("warmup_steps"):
        sheet.fill({"warmup_steps": Field("train.warmup_steps", 0, whole)})
        if "warmup_ratio" in sheet.given:
            sheet.note(Fate.NO_EFFECT, "warmup_ratio", why="warmup_steps says it")
        return
    if "warmup_steps" in sheet.given:
        sheet.note(Fate.NO_EFFECT, "warmup_steps", why="left empty", value="")
    ratio = sheet.value("warmup_ratio")
    if isinstance(ratio, int | float) and not isinstance(ratio, bool):
        warm_up(sheet, wanted, "warmup_ratio", float(ratio), _rounded)
        return
    warm_up(sheet, wanted, "warmup_ratio", 0.03, lambda part: min(_rounded(part), 100))
    why = "axolotl's own where the file is silent: 3 per cent, at most 100"
    sheet.note(Fate.CLOSE, "warmup_ratio", why=why)


def _rounded(part: float) -> int:
    """axolotl rounds down, and makes 2 of 1."""
    steps = math.floor(part)
    return 2 if steps == 1 else steps


def _save_steps(sheet: Sheet) -> None:
    steps = sheet.value("save_steps")
    if isinstance(steps, int) and not isinstance(steps, bool) and steps >= 1:
        sheet.fill({"save_steps": Field("train.save_steps", 50, whole)})
    elif "save_steps" in sheet.given:
        sheet.note(Fate.NO_EFFECT, "save_steps", why="a part of the steps decides no weight")
