"""LLaMA Factory's settings in LLaMA Board's form, and what has no place in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runner.errors import UsageError
from runner.scripts.data.formats import EVERY
from runner.webui.data_sets import Rows, entries
from runner.webui.form import form_of

TOLD: dict[str, Any] = {
    "stage": "sft",
    "finetuning_type": "lora",
    "dataset": "a,b",
    "dataset_dir": "data",
    "learning_rate": 2e-5,
    "lora_rank": 8,
    "lora_alpha": 16,
    "lora_dropout": 0.125,
    "save_steps": 5,
    "warmup_steps": 7000,
    "seed": 42,
    "upcast_layernorm": False,
    "use_reentrant_gc": True,
    "trust_remote_code": False,
    "logging_nan_inf_filter": False,
    "use_cpu": False,
    "full_determinism": True,
    "bf16": True,
}


def test_what_the_form_can_hold_is_in_it_and_the_rest_is_seen_in_extra_arguments() -> None:
    form = form_of(TOLD)
    assert form.values["train.dataset"] == ["a", "b"]
    assert form.values["train.training_stage"] == "Supervised Fine-Tuning"
    assert (form.values["train.learning_rate"], form.values["train.compute_type"]) == (
        "2e-05",
        "bf16",
    )
    assert form.values["train.lora_dropout"] == 0.125
    assert form.extra == {
        "save_steps": 5,
        "warmup_steps": 7000,
        "seed": 42,
        "trust_remote_code": False,
        "full_determinism": True,
    }
    assert json.loads(form.saved()["train.extra_args"]) == form.extra


def test_the_form_has_a_stage_for_continued_pre_training() -> None:
    assert form_of(TOLD | {"stage": "pt"}).values["train.training_stage"] == "Pre-Training"


def test_what_is_false_by_wish_and_true_by_default_is_said_by_zero() -> None:
    """LLaMA Board leaves out what is false."""
    assert (
        form_of(TOLD | {"ignore_pad_token_for_loss": False}).extra["ignore_pad_token_for_loss"] == 0
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lora_rank", 2000),
        ("lora_alpha", 4096),
        ("lora_dropout", 1.5),
        ("double_quantization", False),
    ],
)
def test_what_the_form_would_overrule_is_refused(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"cannot hold {name}: {value}") as caught:
        form_of(TOLD | {name: value})
    assert caught.value.code == "E884"


PREFERENCES = TOLD | {"stage": "dpo", "pref_beta": 0.3, "pref_ftx": 0.0, "pref_loss": "orpo"}


def test_preferences_have_their_places_in_the_form() -> None:
    more = {"dpo_label_smoothing": 0.1, "simpo_gamma": 1.0, "pref_bco_weight": 0.0}
    form = form_of(PREFERENCES | more | {"ld_alpha": None})
    held = ("training_stage", "pref_loss", "pref_beta", "pref_ftx")
    assert [form.values[f"train.{name}"] for name in held] == ["DPO", "orpo", 0.3, 0.0]
    told = {name: form.extra.get(name) for name in (*more, "ld_alpha")}
    assert told == {**more, "pref_bco_weight": None, "ld_alpha": None}
    judged = {"stage": "kto", "pref_beta": 0.2, "kto_chosen_weight": 1.5}
    form = form_of(TOLD | judged)
    assert form.values["train.training_stage"] == "KTO"
    assert form.values["train.pref_loss"] == "sigmoid"  # whatever was clicked before
    assert form.extra["kto_chosen_weight"] == 1.5


@pytest.mark.parametrize("beta", [2.0, 1.01])
def test_a_beta_beyond_the_slider_is_refused(beta: float) -> None:
    """SimPO's usual one is 2."""
    with pytest.raises(UsageError, match=r"cannot hold pref_beta: .* takes 0 to 1") as caught:
        form_of(PREFERENCES | {"pref_beta": beta})
    assert caught.value.code == "E884"


def test_rows_of_preferences_are_registered_with_their_columns() -> None:
    files = [
        Rows(Path("a.jsonl"), "preference", {}),
        Rows(Path("b.json"), "preference", {"prompt": "question", "rejected": "bad"}),
        Rows(Path("c.jsonl"), "kto", {"completion": "said"}),
        Rows(Path("d.jsonl"), "alpaca", {"output": "answer"}),
        Rows(Path("e.jsonl"), "sharegpt", {}),
    ]
    found = {name: entry for name, entry, _ in entries("x", files)}
    assert found["x-1"] == {
        "file_name": "x-1.jsonl",
        "ranking": True,
        "columns": {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"},
    }
    assert found["x-2"]["columns"] == {"prompt": "question", "chosen": "chosen", "rejected": "bad"}
    assert found["x-3"]["columns"] == {"prompt": "prompt", "response": "said", "kto_tag": "label"}
    assert found["x-4"]["columns"] == {
        "prompt": "instruction",
        "query": "input",
        "response": "answer",
    }
    assert found["x-5"] == {"file_name": "x-5.jsonl", "formatting": "sharegpt"}


def test_rows_of_every_format_can_be_registered() -> None:
    files = [Rows(Path("rows.jsonl"), form, {}) for form in EVERY]
    assert len(list(entries("x", files))) == len(EVERY) >= 7
