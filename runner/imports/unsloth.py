"""Settings of an Unsloth notebook or script: the literal arguments of its calls. Nothing is run."""

from __future__ import annotations

from typing import Any

from runner.capture.captured import Captured, Fate
from runner.capture.data_sets import Inexpressible
from runner.errors import UsageError
from runner.imports import trl_settings
from runner.imports.calls import Call, Computed
from runner.imports.comparing import fill_adapter, note_packing
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
    checkpointing,
    dtype,
    flag,
    names,
    number,
    optimizer,
    schedule,
    whole,
)
from runner.imports.sheet import Field, Sheet
from runner.imports.templates import put_template
from runner.imports.trl import (
    length,
    modules_to_save,
    of_the_method,
    rows_length,
    save_steps,
    warm_up_as_transformers,
    warn_of_remote_code,
)
from runner.imports.wanted import Wanted

KIND = "unsloth"
TOOL = "Unsloth"
READS_PROGRAMS = True

_MODELS = ("FastLanguageModel", "FastModel", "FastVisionModel")
_TRAINERS = ("Trainer",)
_KNOWN_TRAINERS = tuple(word for each in METHODS.values() for word in each.words["unsloth"])
_CONFIGS = (
    "SFTConfig",
    "DPOConfig",
    "ORPOConfig",
    "CPOConfig",
    "KTOConfig",
    "RewardConfig",
    "TrainingArguments",
    "UnslothTrainingArguments",
    "Seq2SeqTrainingArguments",
)
# Calls whose arguments are settings; of two that say the same, the later one here counts.
_SPLIT = "train_test_split"
_ORDER = ("from_pretrained", "get_peft_model", "LoraConfig", _SPLIT, *_KNOWN_TRAINERS)

_LORA = {
    "r": Field("train.adapter.r", 16, whole),
    "lora_alpha": Field("train.adapter.lora_alpha", 16, whole),
    "lora_dropout": Field("train.adapter.lora_dropout", 0.0, number),
    "use_rslora": Field("train.adapter.use_rslora", False, flag),
    "target_modules": Field(
        "train.adapter.target_modules",
        ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        names,
    ),
}
# Of Transformers' TrainingArguments; and of SFTConfig, which Unsloth gives other defaults.
_TRAINING = {
    "per_device_train_batch_size": (8, 4),
    "gradient_accumulation_steps": (1, 2),
    "learning_rate": (5e-5, 5e-5),
    "lr_scheduler_type": ("linear", "linear"),
    "weight_decay": (0.0, 0.001),
    "max_grad_norm": (1.0, 1.0),
    "optim": ("adamw_torch_fused", "adamw_8bit"),
}
_READERS = {
    "per_device_train_batch_size": whole,
    "gradient_accumulation_steps": whole,
    "lr_scheduler_type": schedule,
    "optim": optimizer,
}
_SEED = (42, 3407)
_WARM_UP = (0.0, 0.1)

_MAPPED = """
    model_name revision trust_remote_code dtype load_in_4bit load_in_8bit full_finetuning
    random_state use_dora modules_to_save test_size max_length max_seq_length packing
    num_train_epochs max_steps warmup_steps warmup_ratio bf16 fp16 gradient_checkpointing
    use_gradient_checkpointing save_steps seed
"""
MAPPED = frozenset({*_LORA, *_TRAINING, *_MAPPED.split()})

# Arguments that are objects of the program, or decide no weight.
_NO_EFFECT = """
    model tokenizer processing_class train_dataset eval_dataset args peft_config compute_metrics
    preprocess_logits_for_metrics token device_map fast_inference gpu_memory_utilization
    float8_kv_cache max_lora_rank disable_log_stats fix_tokenizer use_exact_model_name
    offload_embedding unsloth_tiled_mlp temporary_location task_type return_logits
    attn_implementation unsloth_force_compile
"""
NO_EFFECT = frozenset(_NO_EFFECT.split()) | trl_settings.NO_EFFECT
_CANNOT: dict[str, dict[str, Any]] = {
    "a recipe loads the model as its own settings say": {
        "rope_scaling": None,
        "resize_model_vocab": None,
        "float32_mixed_precision": None,
        "load_in_fp8": False,
        "load_in_16bit": False,
        "quantization_config": None,
        "text_only": False,
        "auto_model": None,
        "qat_scheme": None,
    },
    "a recipe trains all weights, or a LoRA adapter as PEFT makes it": {
        "bias": "none",
        "layers_to_transform": None,
        "layers_pattern": None,
        "finetune_last_n_layers": None,
        "init_lora_weights": True,
        "loftq_config": None,
        "target_parameters": None,
        "ensure_weight_tying": False,
        "finetune_language_layers": True,
        "finetune_attention_modules": True,
        "finetune_mlp_modules": True,
        "finetune_vision_layers": False,
        "finetune_audio_layers": False,
    },
    "the rows of a recipe are all of its files, as they are": {
        "data_collator": None,
        "formatting_func": None,
    },
    "a recipe runs no code of a notebook": {"callbacks": None, "optimizers": None, "**": None},
    "a recipe has one learning rate": {"embedding_learning_rate": None},
}
CANNOT = {
    why: {**trl_settings.CANNOT.get(why, {}), **_CANNOT.get(why, {})}
    for why in (*trl_settings.CANNOT, *_CANNOT)
}
# What a program does to its rows -> what a recipe does in its place.
_STEPS = {
    "map": "the rows are taken as they are, and rendered by the model's chat template",
    "filter": "all rows are taken",
    "select": "all rows are taken",
    "shuffle": "the order of the rows is drawn by the recipe's seed",
    "standardize_sharegpt": "a recipe reads both forms of chats as they are",
    "standardize_data_formats": "a recipe reads both forms of chats as they are",
    "to_sharegpt": "the rows are taken as they are",
    "get_chat_template": "the model's own chat template is taken",
    "apply_chat_template": "rows are rendered by the model's chat template",
    "concatenate_datasets": "name every file in data.train",
}


def is_its(document: Document) -> str:
    """Does the program load a model by Unsloth?"""
    loads = any(_loads(call) for call in document.calls)
    return "it calls from_pretrained of Unsloth's FastLanguageModel or FastModel" if loads else ""


def convert(document: Document, wanted: Wanted) -> Captured:
    """The recipe that trains as the calls say. Raises UsageError (E855, E856)."""
    calls = _settings_calls(document)
    sheet = _sheet(calls)
    method = _method(document, sheet)
    compared = METHODS[method].compared
    sheet.made.recipe = {"schema": 1, "name": wanted.name}
    config = next((name for name in calls if name in _CONFIGS), "SFTConfig")
    patched = 0 if config == "TrainingArguments" else 1
    sheet.fill({"seed": Field("seed", _SEED[patched], whole)})
    _adapter_seed(sheet)
    _model(sheet, wanted)
    _data(sheet, wanted, document, compared)
    sheet.made.recipe["train"] = {"backend": "native", "method": method}
    of_the_method(sheet, KIND, method)
    _adapter(sheet, calls, method)
    length(sheet)
    sheet.fill(
        {
            name: Field(f"train.{name}", defaults[patched], _READERS.get(name, number))
            for name, defaults in _TRAINING.items()
        }
    )
    _precision(sheet)
    _checkpointing(sheet)
    _quantization(sheet)
    warm_up_as_transformers(sheet, wanted, _WARM_UP[patched])
    save_steps(sheet)
    _what_the_program_does(sheet, document, compared)
    return _finished(sheet)


# --- the calls


def _loads(call: Call) -> bool:
    owner, _, last = call.name.rpartition(".")
    return last == "from_pretrained" and owner in _MODELS


def _short(call: Call) -> str:
    """A call of interest by its last name, else ""."""
    last = call.name.rpartition(".")[2]
    if _loads(call) or last in ("get_peft_model", "LoraConfig", _SPLIT, *_CONFIGS):
        return last
    last = "SFTTrainer" if last == "UnslothTrainer" else last
    return last if last in _KNOWN_TRAINERS else ""


def _settings_calls(document: Document) -> dict[str, list[Call]]:
    found: dict[str, list[Call]] = {}
    for call in document.calls:
        if short := _short(call):
            found.setdefault(short, []).append(call)
    return found


def _sheet(calls: dict[str, list[Call]]) -> Sheet:
    """The first call of each kind by the names of its arguments, the others by long names."""
    given: dict[str, Any] = {}
    shown: dict[str, str] = {}
    for short in sorted(calls, key=lambda name: (*_ORDER, name).index(name)):
        for number_, call in enumerate(calls[short], 1):
            for name, value in _arguments(short, call).items():
                label = f"{short}.{name}" if number_ == 1 else f"{short}#{number_}.{name}"
                if number_ > 1 or (short == _SPLIT and name != "test_size"):
                    given[label] = value
                    continue
                if name in given:
                    given[shown[name]] = given[name]  # superseded
                given[name], shown[name] = value, label
    return Sheet(TOOL, given, shown)


def _arguments(short: str, call: Call) -> dict[str, Any]:
    first = {"from_pretrained": "model_name"}.get(short)
    if first and call.positional and first not in call.named:
        return {first: call.positional[0], **call.named}
    return call.named


def _method(document: Document, sheet: Sheet) -> str:
    for call in document.calls:
        last = call.name.rpartition(".")[2]
        last = "SFTTrainer" if last == "UnslothTrainer" else last
        if last == "CPOTrainer" and sheet.value("loss_type") != "simpo":
            last = "CPOTrainer without loss_type simpo"
        elif not last.endswith(_TRAINERS) or last in ("Trainer", "Seq2SeqTrainer"):
            continue
        if not last.startswith("Patch"):  # PatchDPOTrainer() stands before other trainers, too
            return method_of(KIND, last, f"line {call.line}")
    raise UsageError(
        "the file calls no trainer of TRL (SFTTrainer)",
        hint="import the notebook that trains",
        code="E856",
    )


# --- the model


def _model(sheet: Sheet, wanted: Wanted) -> None:
    add_model(sheet, wanted, "model_name", "revision")
    warn_of_remote_code(sheet, "trust_remote_code")
    if sheet.has("dtype"):
        sheet.fill({"dtype": Field("model.dtype", "bfloat16", dtype)})
        return
    sheet.put("model.dtype", "bfloat16", "dtype", "Unsloth's choice on a GPU with bfloat16")
    why = "Unsloth asks the GPU; this is what it is on one with bfloat16"
    sheet.note(Fate.CLOSE, "dtype", becomes="model.dtype: bfloat16", why=why, value="")


def _quantization(sheet: Sheet) -> None:
    if sheet.value("load_in_8bit"):
        sheet.lost("load_in_8bit", "a recipe holds a base in 4 bits or in 16; this one is in 16")
    elif "load_in_8bit" in sheet.given:
        sheet.note(Fate.NO_EFFECT, "load_in_8bit")
    other = sheet.value("load_in_8bit") or sheet.value("load_in_16bit")
    wants = bool(sheet.value("load_in_4bit", not other))
    if not wants or sheet.made.recipe["train"]["adapter"]["type"] == "none":
        if "load_in_4bit" in sheet.given:
            sheet.mapped("load_in_4bit", "a base in 16 bits")
        return
    recipe = sheet.made.recipe
    held = {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": "bfloat16"
        if recipe["train"]["bf16"]
        else recipe["model"]["dtype"],
    }
    sheet.put("model.quantization", held, "load_in_4bit")
    becomes = "model.quantization: NF4 with double quantisation"
    if sheet.has("load_in_4bit"):
        sheet.mapped("load_in_4bit", becomes)
    else:
        why = "Unsloth's own where the file is silent"
        sheet.note(Fate.DEFAULT, "load_in_4bit", becomes=becomes, why=why, value=True)


def _adapter_seed(sheet: Sheet) -> None:
    if not sheet.has("random_state"):
        return
    if sheet.value("random_state") == sheet.made.recipe["seed"]:
        sheet.mapped("random_state", "seed")
    else:
        sheet.lost("random_state", "a recipe has one seed, that of the training")


# --- the data


def _data(sheet: Sheet, wanted: Wanted, document: Document, compared: str) -> None:
    loads = [call for call in document.calls if call.name.rpartition(".")[2] == "load_dataset"]
    given, shown = dict(sheet.given), dict(sheet.shown)
    for number_, call in enumerate(loads, 1):
        label = "load_dataset" if number_ == 1 else f"load_dataset#{number_}"
        arguments = dict(zip(("path", "name"), call.positional, strict=False)) | call.named
        given |= {f"{label}.{name}": value for name, value in arguments.items()}
    sheet.given, sheet.shown = given, shown
    leaves = [name for name in given if name.startswith("load_dataset")]
    if not rows_given(sheet, wanted, leaves):
        _files(sheet, wanted, loads, compared)
    add_validation(sheet, "test_size", 0.0, "other rows are held out: by their content's hash")
    sheet.put("data.chat_template", "model", "chat_template")
    _length_of_rows(sheet, compared)
    note_packing(sheet, "packing", compared)


def _length_of_rows(sheet: Sheet, compared: str) -> None:
    """That of the model; trainers that compare answers have one of their own."""
    if not compared:
        rows_length(sheet, ("max_length", "max_seq_length"), 2048)
        return
    rows_length(sheet, ("max_length",), 1024)
    if "max_seq_length" in sheet.given:
        why = "max_length of the trainer says how long rows are"
        sheet.note(Fate.NO_EFFECT, "max_seq_length", why=why)


def _files(sheet: Sheet, wanted: Wanted, loads: list[Call], compared: str) -> None:
    files, why = [], []
    if loads:
        call = loads[0]
        arguments = dict(zip(("path", "name"), call.positional, strict=False)) | call.named
        try:
            files = _rows_of(arguments, wanted, compared)
            _note_load(sheet, arguments, files)
        except Inexpressible as error:
            why.append(f"{arguments.get('path')}: {error}")
    else:
        why.append("the file calls no load_dataset")
    require_rows(sheet, files, why)
    for name in sheet.given:
        if name.startswith("load_dataset#"):
            sheet.lost(name, "the first data set is taken; add this one to data.train")


def _rows_of(arguments: dict[str, Any], wanted: Wanted, compared: str) -> list[dict[str, Any]]:
    path, named = arguments.get("path"), arguments.get("data_files")
    if isinstance(named, dict):
        named = named.get("train")
    parts = named if isinstance(named, list) else [named] if named else []
    if any(isinstance(each, Computed) for each in (path, *parts)):
        raise Inexpressible("which file it is, the notebook computes; name the rows with --data")
    if path in ("json", "jsonl") and parts:
        return [local_rows(str(part), None, wanted, compared) for part in parts]
    if isinstance(path, str) and path.endswith(ROWS):
        return [local_rows(path, None, wanted, compared)]
    if parts:
        return [hub_rows(str(path), str(part), None, None) for part in parts]
    raise Inexpressible(f"it is a data set of the hub, or a folder; {NEEDS_A_FILE}")


def _note_load(sheet: Sheet, arguments: dict[str, Any], files: list[dict[str, Any]]) -> None:
    places = ", ".join(str(item.get("path") or item["file"]) for item in files)
    for name, value in arguments.items():
        label = f"load_dataset.{name}"
        if name in ("path", "data_files"):
            sheet.mapped(label, f"data.train: {places}")
        elif value is None or (name, value) == ("split", "train"):
            sheet.note(Fate.NO_EFFECT, label)
        else:
            sheet.lost(label, "a recipe takes every row of a file")


# --- the training


def _adapter(sheet: Sheet, calls: dict[str, list[Call]], method: str) -> None:
    full = bool(sheet.value("full_finetuning", False))
    if full:
        sheet.put("train.adapter", {"type": "none"}, "full_finetuning")
        sheet.mapped("full_finetuning", "train.adapter.type: none")
        for name in [each for each in _LORA if each in sheet.given]:
            sheet.note(Fate.NO_EFFECT, name, why="full_finetuning trains all weights")
        return
    if "get_peft_model" not in calls and "LoraConfig" not in calls:
        raise UsageError(
            "the file trains no adapter (get_peft_model), and does not say full_finetuning",
            hint="import the notebook that trains",
            code="E856",
        )
    if "full_finetuning" in sheet.given:
        sheet.note(Fate.NO_EFFECT, "full_finetuning")
    sheet.put("train.adapter", {"type": "lora"}, "get_peft_model", "Unsloth: get_peft_model")
    fill_adapter(sheet, _lora_fields("get_peft_model" in calls), METHODS[method].compared)
    if sheet.has("use_dora"):
        sheet.fill({"use_dora": Field("train.adapter.use_dora", False, flag)})
    modules_to_save(sheet, "modules_to_save", method)


def _lora_fields(by_unsloth: bool) -> dict[str, Field]:
    """PEFT's own LoraConfig has other defaults than get_peft_model of Unsloth."""
    if by_unsloth:
        return _LORA
    own = {"r": 8, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}
    return {
        name: Field(each.target, own.get(name, each.default), each.read)
        for name, each in _LORA.items()
    }


def _precision(sheet: Sheet) -> None:
    """Unsloth computes in the type that the model is loaded in, whatever these two say."""
    bf16 = sheet.made.recipe["model"]["dtype"] == "bfloat16"
    sheet.put("train.bf16", bf16, "bf16")
    becomes = f"train.bf16: {str(bf16).lower()}"
    for name, meant in (("bf16", bf16), ("fp16", not bf16)):
        raw = sheet.given.get(name)
        if isinstance(raw, Computed):
            sheet.close(
                name, "the file asks the GPU; this is what it is on one with bfloat16", becomes
            )
        elif raw is not None and bool(sheet.value(name)) is meant:
            sheet.mapped(name, becomes)
        elif raw is not None and name in sheet.given:
            sheet.lost(name, "a recipe's autocast is to bfloat16, as the weights are", becomes)
    if "bf16" not in sheet.given:
        why = "Unsloth's own where the file is silent: as the model is loaded"
        sheet.note(Fate.DEFAULT, "bf16", becomes=becomes, why=why, value="")


def _checkpointing(sheet: Sheet) -> None:
    """Of both names Unsloth's own wins; its default is its own way of it."""
    if "gradient_checkpointing" in sheet.given:
        sheet.note(
            Fate.NO_EFFECT, "gradient_checkpointing", why="use_gradient_checkpointing says it"
        )
    each = Field("train.gradient_checkpointing", "unsloth", checkpointing)
    sheet.fill({"use_gradient_checkpointing": each})


# --- everything else


def _what_the_program_does(sheet: Sheet, document: Document, compared: str) -> None:
    """Rows and templates that are made by code: named, since no recipe runs it."""
    for text in document.unread:
        sheet.made.note(Fate.WARNING, "notebook", text, why="left out")
    answers = False
    for call in document.calls:
        last = call.name.rpartition(".")[2]
        answers = answers or last == "train_on_responses_only"
        if last == "get_chat_template" and _named_template(sheet, call):
            continue
        if last in _STEPS and f"{last}()" not in sheet.noted:
            sheet.note(Fate.CLOSE, f"{last}()", why=_STEPS[last], value=f"line {call.line}")
    if compared:
        return
    name = "train_on_responses_only()"
    formats = {item["format"] for item in sheet.made.recipe["data"]["train"]}
    if answers:
        sheet.note(Fate.MAPPED, name, why="a recipe trains on answers", value="called")
    elif formats != {"text"}:
        why = "the notebook trains on whole conversations; a recipe on their answers"
        sheet.note(Fate.CLOSE, name, why=why, value="not called")


def _named_template(sheet: Sheet, call: Call) -> bool:
    """Is the template that the notebook puts on the tokenizer a shipped one?"""
    arguments = (
        dict(zip(("tokenizer", "chat_template"), call.positional, strict=False)) | call.named
    )
    name = arguments.get("chat_template")
    return isinstance(name, str) and put_template(sheet, name, "get_chat_template()", "Unsloth")


def _finished(sheet: Sheet) -> Captured:
    for label in sheet.given:
        if "." not in label or label in sheet.noted or label.startswith("load_dataset"):
            continue
        if label.startswith(_SPLIT):
            sheet.close(label, "a recipe holds out rows by the hash of their content")
        else:
            why = "said again elsewhere; what stands nearest to the trainer counts"
            sheet.note(Fate.NO_EFFECT, label, why=why)
    return sheet.finish(MAPPED, NO_EFFECT, CANNOT)
