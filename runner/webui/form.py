"""LLaMA Factory's settings as values of LLaMA Board's form. Pure.

What the form has a place for goes there; everything else goes to its field "extra arguments", where
a person sees it. `tests/integration/test_webui.py` gives many forms to LLaMA Board's own parser.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runner.capture.keys import CANNOT, DEFAULTS, NO_EFFECT
from runner.errors import UsageError

EXTRA = "train.extra_args"
MODEL = "Custom"  # what the form calls a model that is not in its own list
STAGES = {
    "sft": "Supervised Fine-Tuning",
    "rm": "Reward Modeling",
    "dpo": "DPO",
    "kto": "KTO",
    "pt": "Pre-Training",
}


@dataclass(frozen=True, slots=True)
class Place:
    """An element of the form. `low` and `high` are what its slider takes, ends included."""

    element: str
    low: float | None = None
    high: float | None = None
    text: bool = False

    def takes(self, value: Any) -> bool:
        """Can the element hold the value as it is?"""
        if self.low is None or self.high is None:
            return value is not None
        return isinstance(value, int | float) and self.low <= value <= self.high


# Settings that extra arguments may say in place of the form.
_EARLY = {
    "model_name_or_path": Place("top.model_path"),
    "finetuning_type": Place("top.finetuning_type"),
    "template": Place("top.template"),
    "dataset_dir": Place("train.dataset_dir"),
    "cutoff_len": Place("train.cutoff_len", 4, 131072),
    "learning_rate": Place("train.learning_rate", text=True),
    "num_train_epochs": Place("train.num_train_epochs", text=True),
    "max_grad_norm": Place("train.max_grad_norm", text=True),
    "per_device_train_batch_size": Place("train.batch_size", 1, 1024),
    "gradient_accumulation_steps": Place("train.gradient_accumulation_steps", 1, 1024),
    "lr_scheduler_type": Place("train.lr_scheduler_type"),
    "logging_steps": Place("train.logging_steps", 1, 1000),
    "save_steps": Place("train.save_steps", 10, 5000),
    "warmup_steps": Place("train.warmup_steps", 0, 5000),
    "packing": Place("train.packing"),
    "neat_packing": Place("train.neat_packing"),
    "report_to": Place("train.report_to"),
}
# Settings that the form says last: what it cannot hold, the web UI cannot train.
_LATE = {
    "lora_rank": Place("train.lora_rank", 1, 1024),
    "lora_alpha": Place("train.lora_alpha", 1, 2048),
    "lora_dropout": Place("train.lora_dropout", 0, 1),
    "use_rslora": Place("train.use_rslora"),
    "use_dora": Place("train.use_dora"),
    "lora_target": Place("train.lora_target"),
    "freeze_trainable_layers": Place("train.freeze_trainable_layers", -128, 128),
    "freeze_trainable_modules": Place("train.freeze_trainable_modules"),
    "pref_beta": Place("train.pref_beta", 0, 1),
    "pref_ftx": Place("train.pref_ftx", 0, 10),
    "pref_loss": Place("train.pref_loss"),
    "quantization_bit": Place("top.quantization_bit", text=True),
    "quantization_method": Place("top.quantization_method"),
}
# What must not be left over from something that was clicked before.
_NEUTRAL: dict[str, Any] = {
    "top.model_name": MODEL,
    "top.checkpoint_path": [],
    "top.quantization_bit": "none",
    "top.rope_scaling": "none",
    "top.booster": "auto",
    "train.max_samples": "100000",
    "train.val_size": 0,
    "train.neftune_alpha": 0,
    "train.train_on_prompt": False,
    "train.mask_history": False,
    "train.resize_vocab": False,
    "train.use_llama_pro": False,
    "train.enable_thinking": True,
    "train.pref_beta": 0.1,
    "train.pref_ftx": 0,
    "train.pref_loss": "sigmoid",
    "train.loraplus_lr_ratio": 0,
    "train.create_new_adapter": False,
    "train.use_pissa": False,
    "train.additional_target": "",
    "train.use_galore": False,
    "train.use_apollo": False,
    "train.use_badam": False,
    "train.use_swanlab": False,
    "train.freeze_extra_modules": "",
    "train.ds_stage": "none",
    "train.ds_offload": False,
}
# They decide no weight, and are said all the same: what the web UI itself would say is worse.
_SAID = frozenset(
    {
        "use_cpu",
        "full_determinism",
        "overwrite_output_dir",
        "preprocessing_num_workers",
        "save_strategy",
    }
)
_ELSEWHERE = frozenset({"stage", "dataset", "bf16", "double_quantization"})
_USUAL = {name: value for table in CANNOT.values() for name, value in table.items()}


@dataclass(frozen=True, slots=True)
class Form:
    """`values` by element id, as LLaMA Board saves them, and what its extra arguments say."""

    values: dict[str, Any]
    extra: dict[str, Any]

    def saved(self) -> dict[str, Any]:
        """What stands in a file that the form can load."""
        return {**self.values, EXTRA: json.dumps(self.extra, sort_keys=True)}


def form_of(configuration: Mapping[str, Any]) -> Form:
    """The form with which LLaMA Board trains as `llamafactory-cli train` does with `configuration`.

    `dataset` is a name, or names with commas between them. Raises UsageError (E884) where a value
    cannot be said in the form.
    """
    values = dict(_NEUTRAL)
    values["train.training_stage"] = STAGES[configuration["stage"]]
    values["train.dataset"] = str(configuration["dataset"]).split(",")
    values["train.compute_type"] = "bf16" if configuration.get("bf16") else "fp32"
    extra: dict[str, Any] = {}
    if not configuration.get("double_quantization", True):
        raise _no_place("double_quantization", False, "LLaMA Board always switches it on")
    for name, value in configuration.items():
        place = _EARLY.get(name) or _LATE.get(name)
        if name in _ELSEWHERE:
            continue
        if place is not None and place.takes(value):
            values[place.element] = _shown(value) if place.text else value
        elif name in _LATE:
            assert place is not None
            raise _no_place(name, value, f"it takes {place.low:g} to {place.high:g}")
        elif _is_worth_saying(name, value):
            extra[name] = _kept(name, value)
    return Form(values, extra)


def _is_worth_saying(name: str, value: Any) -> bool:
    if name in NO_EFFECT:
        return name in _SAID and value is not False
    return not (name in _USUAL and _USUAL[name] == value)


def _kept(name: str, value: Any) -> Any:
    """LLaMA Board leaves out what is false; where that would mean true, 0 says the same."""
    return 0 if value is False and DEFAULTS.get(name, _USUAL.get(name)) is True else value


def _shown(value: Any) -> str:
    """A number as text that becomes the same number again."""
    return repr(value) if isinstance(value, float) else str(value)


def _no_place(name: str, value: Any, why: str) -> UsageError:
    return UsageError(
        f"the web UI's form cannot hold {name}: {value} ({why})",
        hint="change it with --set, or train with `recipe run --backend llamafactory`",
        code="E884",
    )
