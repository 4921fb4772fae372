"""A configuration of `llamafactory-cli train`: by runner/capture, each setting told once."""

from __future__ import annotations

from typing import Any

from runner.backends.llamafactory_preferences import NAMES
from runner.capture.captured import Captured, Fate
from runner.capture.keys import CANNOT as _CANNOT
from runner.capture.keys import DEFAULTS
from runner.capture.keys import MAPPED as _MAPPED
from runner.capture.keys import NO_EFFECT as _NO_EFFECT
from runner.capture.settings import capture
from runner.capture.source import Source
from runner.imports.document import Document
from runner.imports.sheet import Sheet
from runner.imports.wanted import Wanted
from runner.recipe.flow import flow

KIND = "llamafactory"
TOOL = "LLaMA Factory"
READS_PROGRAMS = False
MAPPED, NO_EFFECT, CANNOT = _MAPPED, _NO_EFFECT, _CANNOT

_TOKENS = "tokenized_path"  # a folder of this machine, which a stranger's file is not to choose

# Settings that have one place in a recipe, for the defaults that a silent file leaves to it.
_PLACES = {
    **{
        name: f"train.{name}"
        for name in (
            "per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate",
            "lr_scheduler_type", "warmup_steps", "weight_decay", "max_grad_norm", "optim", "bf16",
            "num_train_epochs",
        )
    },
    "lora_rank": "train.adapter.r",
    "lora_alpha": "train.adapter.lora_alpha",
    "lora_dropout": "train.adapter.lora_dropout",
    "lora_target": "train.adapter.target_modules",
    "freeze_trainable_layers": "train.adapter.trainable_layers",
    "freeze_trainable_modules": "train.adapter.trainable_modules",
    "flash_attn": "model.attn_implementation",
    "disable_gradient_checkpointing": "train.gradient_checkpointing",
    **{theirs: f"train.{ours}" for ours, theirs in NAMES.items()},
    "pref_loss": "train.loss_type",
}  # fmt: skip


def is_its(document: Document) -> str:
    """It is told by its settings."""
    return ""


def convert(document: Document, wanted: Wanted) -> Captured:
    """The recipe that trains as the file says. Raises UsageError (E851)."""
    settings = {name: value for name, value in document.settings.items() if name != _TOKENS}
    if wanted.revision:
        settings["model_revision"] = wanted.revision
    source = Source(document.path, settings, {}, None)
    found = capture(source, wanted.place, wanted.name)
    sheet = Sheet(TOOL, document.settings, made=Captured(recipe=found.recipe))
    for note in found.notes:
        value = None if note.name in sheet.given else note.value
        becomes = note.becomes or (_becomes(found.recipe, note.name) if note.why == "" else "")
        sheet.note(note.fate, note.name, becomes=becomes, why=note.why, value=value)
    _defaults(sheet)
    if _TOKENS in document.settings:
        sheet.lost(
            _TOKENS, "a recipe trains on rows; `recipe capture` knows tokens of `recipe webui`"
        )
    for name, place in _PLACES.items():
        sheet.made.reasons["/" + place.replace(".", "/")] = f"LLaMA Factory: {name}"
    return sheet.made


def _becomes(recipe: dict[str, Any], name: str) -> str:
    value = _at(recipe, _PLACES[name]) if name in _PLACES else None
    return "" if value is None else f"{_PLACES[name]}: {flow(value)}"


def _defaults(sheet: Sheet) -> None:
    """What LLaMA Factory does where the file is silent, written out by capture."""
    for name, place in _PLACES.items():
        value = _at(sheet.made.recipe, place)
        if sheet.has(name) or value is None or name in sheet.noted:
            continue
        if name == "warmup_steps" and sheet.has("warmup_ratio"):
            continue
        why = "LLaMA Factory's own where the file is silent"
        becomes = f"{place}: {flow(value)}"
        sheet.note(Fate.DEFAULT, name, becomes=becomes, why=why, value=DEFAULTS[name])


def _at(recipe: Any, place: str) -> Any:
    for key in place.split("."):
        recipe = recipe.get(key) if isinstance(recipe, dict) else None
    return recipe
