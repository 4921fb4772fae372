"""Settings of `trl sft`, `trl dpo` and the like: fields of their configurations.

Those are SFTConfig, DPOConfig, KTOConfig, RewardConfig, ORPOConfig or CPOConfig, and ModelConfig
and ScriptArguments.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from runner.capture.captured import Captured, Fate
from runner.capture.data_sets import Inexpressible
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
from runner.imports.models import add_model, stored_dtype
from runner.imports.readers import (
    attention,
    dtype,
    flag,
    names,
    number,
    whole,
)
from runner.imports.sheet import Field, Sheet, flat
from runner.imports.steps import warm_up
from runner.imports.trl_settings import (
    CANNOT,
    LEARNING_RATES,
    LORA,
    MAPPED,
    NO_EFFECT,
    QUANTIZATION,
    TRAIN,
)
from runner.imports.wanted import Wanted

__all__ = ["CANNOT", "MAPPED", "NO_EFFECT", "TOOL", "convert"]

KIND = "trl"
TOOL = "TRL"
READS_PROGRAMS = False

# What is trained -> settings that tell it; of two, the first here.
_TELLS = {
    "grpo": ("num_generations", "reward_funcs", "reward_weights"),
    "ppo": ("reward_model_path", "num_ppo_epochs", "cliprange"),
    "kto": ("desirable_weight", "undesirable_weight"),
    "reward": ("center_rewards_coefficient",),
    "cpo": ("simpo_gamma", "cpo_alpha"),
    "dpo": (
        "precompute_ref_log_probs", "f_divergence_type", "ref_model_init_kwargs", "sync_ref_model",
        "ld_alpha", "rpo_alpha", "loss_weights", "use_weighting", "label_smoothing", "beta",
    ),
}  # fmt: skip
_EVERY_TURN = "TRL trains on every token of a conversation; a recipe on its answers"


def is_its(document: Document) -> str:
    """It is told by its settings."""
    return ""


def convert(document: Document, wanted: Wanted) -> Captured:
    """The recipe that trains as the file says. Raises UsageError (E855, E856)."""
    sheet = Sheet(TOOL, dict(flat(document.settings)))
    made = sheet.made
    method = _method(sheet, wanted)
    compared = METHODS[method].compared
    made.recipe = {"schema": 1, "name": wanted.name}
    sheet.fill({"seed": Field("seed", 42, whole)})
    _model(sheet, wanted)
    _data(sheet, wanted, document.settings, compared)
    made.recipe["train"] = {"backend": "native", "method": method}
    of_the_method(sheet, KIND, method)
    _adapter(sheet, method)
    length(sheet)
    rate = LEARNING_RATES.get(method, TRAIN["learning_rate"].default)
    sheet.fill({**TRAIN, "learning_rate": Field("train.learning_rate", rate, number)})
    _precision(sheet)
    _quantization(sheet)
    warm_up_as_transformers(sheet, wanted, 0)
    save_steps(sheet)
    return sheet.finish(MAPPED, NO_EFFECT, CANNOT)


def _method(sheet: Sheet, wanted: Wanted) -> str:
    """As --method says, or the settings do; `beta` alone is taken for DPO's."""
    if wanted.method is not None:
        return method_of(KIND, wanted.method, "--method")
    if sheet.value("loss_type") == "simpo":
        return method_of(KIND, "simpo", "loss_type")
    for word, settings in _TELLS.items():
        told = next((name for name in settings if name in sheet.given), None)
        if told == "beta":
            why = "trainers of several methods have it: taken for DPO's; --method says another"
            sheet.close("beta", why)
        if told is not None:
            return method_of(KIND, word, told)
    return method_of(KIND, "sft", "the file")


def of_the_method(sheet: Sheet, kind: str, method: str) -> None:
    """The settings of its own, and what its trainer does otherwise."""
    sheet.fill(METHODS[method].settings.get(kind, {}))
    note_loss(sheet, method)
    if method == "kto" and not sheet.has("train_sampling_strategy"):
        why = "TRL trains KTO on the rows in their order; a recipe draws one by its seed"
        sheet.note(Fate.CLOSE, "train_sampling_strategy", why=why, value="sequential")
    if method == "reward" and sheet.value("lora_task_type") == "SEQ_CLS":
        sheet.mapped("lora_task_type", "train.method: reward")


# --- the model


def _model(sheet: Sheet, wanted: Wanted) -> None:
    folder = add_model(sheet, wanted, "model_name_or_path", "model_revision")
    warn_of_remote_code(sheet, "trust_remote_code")
    name = "torch_dtype" if sheet.has("torch_dtype") and not sheet.has("dtype") else "dtype"
    if sheet.value(name) == "auto":
        found = stored_dtype(folder)
        sheet.put("model.dtype", found or "bfloat16", name)
        why = "" if found else "the type that its config.json names, which is not at hand"
        sheet.note(
            Fate.CLOSE if why else Fate.MAPPED, name,
            becomes=f"model.dtype: {found or 'bfloat16'}", why=why,
        )  # fmt: skip
    else:
        sheet.fill({name: Field("model.dtype", "float32", dtype)})
    sheet.fill({"attn_implementation": Field("model.attn_implementation", "sdpa", attention)})


def warn_of_remote_code(sheet: Sheet, name: str) -> None:
    """A model's own code is named and not allowed for another."""
    if sheet.value(name):
        why = "not copied: say model.trust_remote_code only for a model that needs it and you trust"
        sheet.note(Fate.WARNING, name, why=why)
    elif name in sheet.given:
        sheet.note(Fate.NO_EFFECT, name)


def _quantization(sheet: Sheet) -> None:
    if sheet.value("load_in_8bit"):
        sheet.lost("load_in_8bit", "a recipe holds a base in 4 bits or in 16; this one is in 16")
    elif "load_in_8bit" in sheet.given:
        sheet.note(Fate.NO_EFFECT, "load_in_8bit")
    adapter = sheet.made.recipe["train"]["adapter"]["type"]
    if not sheet.value("load_in_4bit") or adapter == "none":
        for name in ("load_in_4bit", *QUANTIZATION):
            if name in sheet.given:
                sheet.note(Fate.NO_EFFECT, name)
        return
    recipe = sheet.made.recipe
    recipe["model"]["quantization"] = {"load_in_4bit": True}
    sheet.fill(QUANTIZATION)
    own = recipe["model"]["dtype"]
    computes = "bfloat16" if recipe["train"]["bf16"] else own
    recipe["model"]["quantization"]["bnb_4bit_compute_dtype"] = computes
    why = "" if computes == own else f"TRL says {own} there, and bf16 autocast computes in bfloat16"
    fate = Fate.CLOSE if why else Fate.MAPPED
    sheet.note(fate, "load_in_4bit", becomes="model.quantization", why=why)


# --- the data


def _data(sheet: Sheet, wanted: Wanted, settings: dict[str, Any], compared: str) -> None:
    mixture = settings.get("datasets")
    leaves = [
        name for name in sheet.given
        if name in ("dataset_name", "dataset_config", "dataset_train_split", "datasets")
        or name.startswith("datasets[")
    ]  # fmt: skip
    if not rows_given(sheet, wanted, leaves):
        if isinstance(mixture, list) and mixture:
            _mixture(sheet, wanted, mixture, compared)
            for name in leaves:
                if not name.startswith("datasets"):
                    sheet.note(Fate.NO_EFFECT, name, why="datasets says it")
        else:
            _named(sheet, wanted, compared)
    add_validation(
        sheet, "test_split_size", 0.0, "other rows are held out: by their content's hash"
    )
    if "dataset_test_split" in sheet.given:
        why = "a recipe evaluates on a part of the rows, or on files: data.validation"
        fate = (
            Fate.LOST if sheet.value("eval_strategy", "no") not in ("no", False) else Fate.NO_EFFECT
        )
        sheet.note(fate, "dataset_test_split", why=why if fate is Fate.LOST else "not evaluated on")
    sheet.put("data.chat_template", "model", "chat_template_path")
    if sheet.has("chat_template_path"):
        sheet.lost(
            "chat_template_path", "put the template into the project, and name it in "
            "data.chat_template", "data.chat_template: model",
        )  # fmt: skip
    rows_length(sheet, ("max_length", "max_seq_length"), 1024)
    _packing(sheet, compared)
    if not compared:
        _loss(sheet)


def _named(sheet: Sheet, wanted: Wanted, compared: str) -> None:
    name = "dataset_name"
    text = sheet.value(name)
    files, why = [], []
    try:
        if not isinstance(text, str):
            raise Inexpressible("the file names no data set")
        if text.endswith(ROWS):
            files = [local_rows(text, None, wanted, compared)]
        else:
            raise Inexpressible(f"it is a data set of the hub, or a folder; {NEEDS_A_FILE}")
    except Inexpressible as error:
        why.append(f"{text}: {error}" if text else str(error))
    require_rows(sheet, files, why)
    sheet.mapped(name, f"data.train: {files[0]['path']}")
    for other, usual in (("dataset_train_split", "train"), ("dataset_config", None)):
        if other in sheet.given and sheet.value(other) != usual:
            sheet.lost(other, "a recipe takes every row of a file")
        elif other in sheet.given:
            sheet.note(Fate.NO_EFFECT, other)


def _mixture(sheet: Sheet, wanted: Wanted, mixture: list[Any], compared: str) -> None:
    files, why = [], []
    for index, entry in enumerate(mixture):
        name = f"datasets[{index}]"
        try:
            if not isinstance(entry, dict):
                raise Inexpressible("it is no data set with a path")
            found = list(_entry(wanted, entry, compared))
        except Inexpressible as error:
            why.append(f"{entry.get('path') if isinstance(entry, dict) else entry}: {error}")
            for leaf, _ in flat({name: entry}):
                sheet.lost(leaf, str(error))
            continue
        files += found
        places = ", ".join(str(item.get("path") or item["file"]) for item in found)
        for leaf, value in flat(entry, f"{name}."):
            key = leaf.removeprefix(f"{name}.").partition(".")[0].partition("[")[0]
            if key in ("path", "data_files"):
                sheet.mapped(leaf, f"data.train: {places}")
            elif value is None or (key, value) == ("split", "train"):
                sheet.note(Fate.NO_EFFECT, leaf)
            else:
                sheet.lost(leaf, "a recipe takes every row of a file")
    require_rows(sheet, files, why)


def _entry(wanted: Wanted, entry: dict[str, Any], compared: str) -> Iterator[dict[str, Any]]:
    path, named = str(entry.get("path")), entry.get("data_files")
    if isinstance(named, dict):
        named = named.get("train")
    parts = [named] if isinstance(named, str) else list(named) if isinstance(named, list) else []
    if path.endswith(ROWS):
        yield local_rows(path, None, wanted, compared)
    elif path == "json" and parts:
        yield from (local_rows(str(part), None, wanted, compared) for part in parts)
    elif parts:
        yield from (hub_rows(path, str(part), None, None) for part in parts)
    else:
        raise Inexpressible(f"it is a data set of the hub, or a folder; {NEEDS_A_FILE}")


def rows_length(sheet: Sheet, spellings: tuple[str, ...], default: int) -> None:
    """data.max_length by the first setting of `spellings` that says it; longer rows are cut."""
    name = next((each for each in spellings if sheet.has(each)), spellings[0])
    if name in sheet.given and sheet.given[name] is None:
        sheet.lost(name, "a recipe always has a longest row", f"data.max_length: {default}")
        sheet.put("data.max_length", default, name)
    else:
        sheet.fill({name: Field("data.max_length", default, whole)})
    for other in spellings:
        if other != name and other in sheet.given:
            sheet.note(Fate.NO_EFFECT, other, why=f"{name} says it")
    sheet.put("data.too_long", "truncate", name, "longer rows are cut at their end")


def _packing(sheet: Sheet, compared: str) -> None:
    note_packing(sheet, "packing", compared)
    packing = sheet.made.recipe["data"]["packing"]
    if "packing_strategy" in sheet.given:
        cut = packing and sheet.value("packing_strategy") != "bfd"
        why = "a recipe packs whole rows, and none of them sees another"
        sheet.note(Fate.LOST if cut else Fate.NO_EFFECT, "packing_strategy", why=why if cut else "")
    if "eval_packing" in sheet.given:
        sheet.note(Fate.NO_EFFECT, "eval_packing")


def _loss(sheet: Sheet) -> None:
    """What is trained on: TRL's answer depends on the rows, a recipe's never does."""
    formats = {item["format"] for item in sheet.made.recipe["data"]["train"]}
    turns = bool(formats - {"text", "prompt-completion"})
    assistant = bool(sheet.value("assistant_only_loss", False))
    if turns and not assistant:
        fate = Fate.LOST if "assistant_only_loss" in sheet.given else Fate.CLOSE
        sheet.note(fate, "assistant_only_loss", why=_EVERY_TURN, value=False)
    elif "assistant_only_loss" in sheet.given:
        sheet.mapped("assistant_only_loss", "only answers are trained on" if turns else "")
    if "completion_only_loss" in sheet.given:
        whole_row = sheet.value("completion_only_loss") is False and "prompt-completion" in formats
        if whole_row:
            sheet.lost("completion_only_loss", "a recipe trains on completions, not on prompts")
        else:
            sheet.mapped("completion_only_loss")


# --- the training


def _adapter(sheet: Sheet, method: str) -> None:
    peft = bool(sheet.value("use_peft", False))
    sheet.put("train.adapter", {"type": "lora" if peft else "none"}, "use_peft")
    becomes = f"train.adapter.type: {'lora' if peft else 'none'}"
    if sheet.has("use_peft"):
        sheet.mapped("use_peft", becomes)
    else:
        why = "TRL's own where the file is silent: all weights are trained"
        sheet.note(Fate.DEFAULT, "use_peft", becomes=becomes, why=why, value=False)
    if not peft:
        for name in (*LORA, "lora_target_modules", "lora_modules_to_save"):
            if name in sheet.given:
                sheet.note(Fate.NO_EFFECT, name, why="use_peft is off")
        return
    fill_adapter(sheet, LORA, METHODS[method].compared)
    targets(sheet, "lora_target_modules")
    modules_to_save(sheet, "lora_modules_to_save", method)


def modules_to_save(sheet: Sheet, name: str, method: str) -> None:
    """Modules that are trained as a whole; a model that scores has its last layer among them."""
    if not sheet.has(name):
        return
    one = sheet.given[name]
    if method == "reward" and one in ("score", ["score"]):
        sheet.mapped(name, "train.method: reward")
        return
    sheet.fill({name: Field("train.adapter.modules_to_save", [], names)})


def targets(sheet: Sheet, name: str) -> None:
    """Layers that get an adapter; where none are named, PEFT chooses by the model's family."""
    place = "train.adapter.target_modules"
    if sheet.has(name):
        one = sheet.given[name]
        if isinstance(one, list) and len(one) == 1 and one[0] == "all-linear":
            sheet.put(place, "all-linear", name)
            sheet.mapped(name, f"{place}: all-linear")
            return
        sheet.fill({name: Field(place, ["q_proj", "v_proj"], names)})
        return
    sheet.put(place, ["q_proj", "v_proj"], name, f"PEFT's default of most families ({name})")
    why = "where none are named PEFT takes these in most families, others in some (Phi-3, GPT-2)"
    sheet.note(Fate.CLOSE, name, becomes=f"{place}: [q_proj, v_proj]", why=why, value="")


def length(sheet: Sheet) -> None:
    """max_steps where it is more than 0, else the passes."""
    steps = sheet.value("max_steps", -1)
    if isinstance(steps, int) and not isinstance(steps, bool) and steps > 0:
        sheet.fill({"max_steps": Field("train.max_steps", 1, whole)})
        if "num_train_epochs" in sheet.given:
            sheet.note(Fate.NO_EFFECT, "num_train_epochs", why="max_steps says how long")
        return
    if "max_steps" in sheet.given:
        sheet.note(Fate.NO_EFFECT, "max_steps")
    sheet.fill({"num_train_epochs": Field("train.num_train_epochs", 3.0, number)})


def _precision(sheet: Sheet) -> None:
    """bf16 is on unless fp16 is, whatever the machine."""
    half = bool(sheet.value("fp16", False))
    if half:
        why = "a recipe has no autocast to float16: autocast is off"
        sheet.lost("fp16", why, "train.bf16: false")
    elif "fp16" in sheet.given:
        sheet.note(Fate.NO_EFFECT, "fp16")
    sheet.fill({"bf16": Field("train.bf16", not half, flag)})


def warm_up_as_transformers(sheet: Sheet, wanted: Wanted, default: float) -> None:
    """Steps, or below 1 a part of them, which older versions called warmup_ratio."""
    steps = sheet.value("warmup_steps")
    ratio = sheet.value("warmup_ratio")
    if isinstance(steps, float) and 0 < steps < 1:
        warm_up(sheet, wanted, "warmup_steps", steps)
        if "warmup_ratio" in sheet.given:
            sheet.note(Fate.NO_EFFECT, "warmup_ratio", why="warmup_steps says it")
        return
    if isinstance(ratio, int | float) and not isinstance(ratio, bool) and ratio and not steps:
        warm_up(sheet, wanted, "warmup_ratio", float(ratio))
        if "warmup_steps" in sheet.given:
            sheet.note(Fate.NO_EFFECT, "warmup_steps", why="warmup_ratio says it")
        return
    if "warmup_ratio" in sheet.given:
        sheet.note(Fate.NO_EFFECT, "warmup_ratio", why="warmup_steps says it" if steps else "")
    if default and not sheet.has("warmup_steps"):
        warm_up(sheet, wanted, "warmup_steps", default)
        why = f"{sheet.tool}'s own where the file is silent"
        sheet.note(Fate.CLOSE, "warmup_steps", why=why)
        return
    sheet.fill({"warmup_steps": Field("train.warmup_steps", 0, whole)})


def save_steps(sheet: Sheet) -> None:
    """How often a checkpoint is written decides no weight; a recipe has it all the same."""
    steps = sheet.value("save_steps")
    if isinstance(steps, int) and not isinstance(steps, bool) and steps >= 1:
        sheet.fill({"save_steps": Field("train.save_steps", 500, whole)})
    elif "save_steps" in sheet.given:
        sheet.note(Fate.NO_EFFECT, "save_steps", why="a part of the steps decides no weight")
