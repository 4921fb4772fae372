"""A run of LLaMA Factory becomes a recipe, and no setting of it is dropped without a word."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from runner.backends import llamafactory
from runner.capture.captured import Captured, Fate
from runner.capture.data_sets import INFO, Place
from runner.capture.keys import CANNOT, DEFAULTS, MAPPED, NO_EFFECT
from runner.capture.settings import capture
from runner.capture.source import ARGUMENTS, FORM, RESULT, Source
from runner.cli.main import main
from runner.recipe.load import load_recipe
from runner.recipe.methods import SETTINGS as METHOD_SETTINGS
from tests.tiny_model import write_tiny_model

# What LLaMA Board writes beside its run: gen_cmd's arguments without the empty ones.
CLICKED: dict[str, Any] = {
    "stage": "sft",
    "do_train": True,
    "model_name_or_path": "models/tiny",
    "preprocessing_num_workers": 16,
    "finetuning_type": "lora",
    "template": "qwen",
    "flash_attn": "auto",
    "dataset_dir": "data",
    "dataset": "faq,chats",
    "cutoff_len": 256,
    "learning_rate": 5e-05,
    "num_train_epochs": 3.0,
    "max_samples": 100000,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 8,
    "lr_scheduler_type": "cosine",
    "max_grad_norm": 1.0,
    "logging_steps": 5,
    "save_steps": 100,
    "packing": False,
    "enable_thinking": True,
    "report_to": "none",
    "output_dir": "saves/Custom/lora/train_1",
    "plot_loss": True,
    "trust_remote_code": True,
    "ddp_timeout": 180000000,
    "include_num_input_tokens_seen": True,
    "optim": "adamw_torch",
    "lora_rank": 16,
    "lora_alpha": 32,
    "lora_target": "all",
    "double_quantization": True,
}
SETS = {
    "faq": {"file_name": "faq.jsonl"},
    "chats": {
        "file_name": "chats.json",
        "formatting": "sharegpt",
        "columns": {"messages": "messages"},
        "tags": {
            "role_tag": "role",
            "content_tag": "content",
            "user_tag": "user",
            "assistant_tag": "assistant",
        },
    },
    "turns": {"file_name": "turns.json", "formatting": "sharegpt"},
    "renamed": {"file_name": "faq.jsonl", "columns": {"prompt": "question", "response": "answer"}},
    "ranked": {"file_name": "faq.jsonl", "ranking": True},
    "pairs": {
        "file_name": "pairs.jsonl",
        "ranking": True,
        "columns": {"prompt": "question", "query": "input", "chosen": "good", "rejected": "bad"},
    },
    "two-parts": {
        "file_name": "pairs.jsonl",
        "ranking": True,
        "columns": {"prompt": "question", "query": "more", "chosen": "good", "rejected": "bad"},
    },
    "turned": {
        "file_name": "pairs.jsonl",
        "ranking": True,
        "formatting": "sharegpt",
        "columns": {"messages": "conversations", "chosen": "good", "rejected": "bad"},
    },
    "judged": {
        "file_name": "judged.jsonl",
        "columns": {"prompt": "prompt", "response": "said", "kto_tag": "label"},
    },
    "texts": {"file_name": "texts.jsonl", "columns": {"prompt": "content"}},
    "far": {"hf_hub_url": "org/rows"},
}


def write_project(folder: Path) -> Place:
    """LLaMA Factory's working folder, with a recipe's folder in it."""
    write_tiny_model(folder / "models" / "tiny")
    (folder / "data").mkdir()
    (folder / "data" / INFO).write_text(json.dumps(SETS))
    chat = {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}
    turns = {"conversations": [{"from": "human", "value": "x"}, {"from": "gpt", "value": "y"}]}
    alpaca = '{"instruction": "Say 1.", "output": "One."}\n'
    (folder / "data" / "faq.jsonl").write_text(alpaca * 9)
    pair = {"question": "One?", "input": "", "more": "x", "good": "Yes.", "bad": "No."}
    (folder / "data" / "pairs.jsonl").write_text(json.dumps(pair) + "\n")
    (folder / "data" / "texts.jsonl").write_text('{"content": "A text."}\n' * 4)
    judged = '{"prompt": "One?", "said": "Yes.", "label": true}\n'
    (folder / "data" / "judged.jsonl").write_text(judged * 4)
    (folder / "data" / "chats.json").write_text(json.dumps([chat]))
    (folder / "data" / "turns.json").write_text(json.dumps([turns]))
    (folder / "recipes").mkdir()
    (folder / ".git").mkdir()
    return Place(folder, folder / "recipes")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return write_project(tmp_path)


def captured(place: Place, given: dict[str, Any], finished: bool | None = True) -> Captured:
    source = Source(place.workspace / "saves" / ARGUMENTS, given, {}, finished)
    return capture(source, place, "clicked")


def fates(made: Captured) -> dict[str, Fate]:
    return {note.name: note.fate for note in made.notes}


def test_a_run_of_the_web_ui_becomes_a_recipe(place: Place) -> None:
    made = captured(place, CLICKED)
    assert made.recipe == {
        "schema": 1,
        "name": "clicked",
        "seed": 42,
        "model": {
            "path": "../models/tiny",
            "dtype": "float32",
            "attn_implementation": "sdpa",
        },
        "data": {
            "train": [
                {"path": "../data/faq.jsonl", "format": "alpaca"},
                {"path": "../data/chats.json", "format": "messages"},
            ],
            "validation": {"fraction": 0.0},
            "chat_template": "model",
            "max_length": 256,
            "too_long": "truncate",
            "packing": False,
        },
        "train": {
            "backend": "llamafactory",
            "method": "sft",
            "template": "qwen",
            "adapter": {
                "type": "lora",
                "r": 16,
                "lora_alpha": 32,
                "lora_dropout": 0.0,
                "use_dora": False,
                "use_rslora": False,
                "target_modules": "all-linear",
            },
            "num_train_epochs": 3.0,
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 8,
            "learning_rate": 5e-05,
            "lr_scheduler_type": "cosine",
            "warmup_steps": 0,
            "weight_decay": 0.0,
            "max_grad_norm": 1.0,
            "optim": "adamw_torch",
            "bf16": False,
            "save_steps": 100,
            "gradient_checkpointing": True,
        },
    }
    found = fates(made)
    assert set(CLICKED) <= set(found)
    assert [name for name, fate in found.items() if fate is Fate.LOST] == []
    assert found["trust_remote_code"] is Fate.WARNING
    assert {name for name, fate in found.items() if fate is Fate.CLOSE} == {
        "cutoff_len",
        "max_samples",
        "seed",
    }


def how_much(made: Captured) -> list[dict[str, Any]]:
    """What the recipe takes of each file."""
    given = ("weight", "repeat", "limit")
    return [
        {key: file[key] for key in given if key in file} for file in made.recipe["data"]["train"]
    ]


@pytest.mark.parametrize(
    ("drawn", "most", "expected"),
    [
        (None, None, {}),
        (None, 4, {"limit": 4}),
        (None, 9, {}),
        (None, 500, {}),
        (5, None, {"limit": 5}),
        (5, 3, {"limit": 3}),
        (9, 20, {}),
        (18, None, {"repeat": 2.0}),
        (27, 12, {"repeat": 12 / 9}),
        (27, 9, {}),
    ],
)
def test_how_many_rows_it_takes_becomes_a_limit_or_a_repeat(
    place: Place, drawn: int | None, most: int | None, expected: dict[str, Any]
) -> None:
    sets = SETS | {"faq": {"file_name": "faq.jsonl", "num_samples": drawn}}  # of 9 rows
    (place.workspace / "data" / INFO).write_text(json.dumps(sets))
    made = captured(place, CLICKED | {"dataset": ["faq"], "max_samples": most})
    assert how_much(made) == [expected]
    found = fates(made)
    assert found.get("faq.num_samples") == (None if drawn is None else Fate.CLOSE)
    if most is not None:
        assert found["max_samples"] is (Fate.CLOSE if expected else Fate.NO_EFFECT)


@pytest.mark.parametrize(
    ("strategy", "probs", "expected"),
    [
        ("concat", None, [{}, {}]),
        ("interleave_once", None, [{}, {}]),
        ("interleave_over", None, [{"weight": 1.0}, {"weight": 1.0}]),
        ("interleave_over", "0.8,0.2", [{"weight": 0.8}, {"weight": 0.2}]),
        ("interleave_over", [0.8, 0.2], [{"weight": 0.8}, {"weight": 0.2}]),
        ("interleave_under", "0.8,0.2", [{"limit": 4}, {"limit": 1}]),
        ("interleave_under", None, [{"limit": 1}, {"limit": 1}]),
    ],
)
def test_a_mix_of_data_sets_becomes_weights_or_limits(
    place: Place, strategy: str, probs: Any, expected: list[dict[str, Any]]
) -> None:
    given = {"dataset": ["faq", "chats"], "mix_strategy": strategy, "interleave_probs": probs}
    made = captured(place, CLICKED | given)  # 9 rows and 1
    assert how_much(made) == expected
    assert Fate.LOST not in fates(made).values()


@pytest.mark.parametrize(
    "probs", ["0.8", "a,b", "1,0"], ids=["too few", "no numbers", "one that is never taken"]
)
def test_a_mix_that_no_recipe_has_is_lost(place: Place, probs: str) -> None:
    given = {"dataset": ["faq", "chats"], "interleave_probs": probs}
    made = captured(place, CLICKED | given | {"mix_strategy": "interleave_over"})
    assert how_much(made) == [{}, {}]
    found = fates(made)
    assert found["mix_strategy"] is found["interleave_probs"] is Fate.LOST


def test_a_weight_stays_with_its_data_set_where_another_is_lost(place: Place) -> None:
    given = {"dataset": "faq,far,chats", "interleave_probs": "0.5,0.3,0.2"}
    made = captured(place, CLICKED | given | {"mix_strategy": "interleave_over"})
    assert how_much(made) == [{"weight": 0.5}, {"weight": 0.2}]


def test_held_out_rows_are_all_of_a_file(place: Place) -> None:
    sets = SETS | {"turns": SETS["turns"] | {"num_samples": 5}}
    (place.workspace / "data" / INFO).write_text(json.dumps(sets))
    made = captured(place, CLICKED | {"dataset": "faq", "eval_dataset": "turns"})
    assert made.recipe["data"]["validation"] == {
        "files": [{"path": "../data/turns.json", "format": "sharegpt"}]
    }
    assert fates(made)["turns.num_samples"] is Fate.CLOSE


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("use_galore", True, "a recipe has AdamW"),
        ("neftune_noise_alpha", 5, "plain loss"),
        ("rope_scaling", "dynamic", "own computation"),
        ("adam_beta2", 0.95, "a recipe has AdamW"),
        ("fp16", True, "autocast"),
        ("mask_history", True, "each answer"),
        ("mix_strategy", "interleave_most", "by weight, repeat and limit"),
        ("deepspeed", "ds.json", "one machine"),
        ("adapter_name_or_path", "saves/x", "merge that adapter first"),
        ("data_seed", 7, "one seed"),
        ("additional_target", "embed_tokens", "no module as a whole"),
        ("lr_scheduler_type", "polynomial", "polynomial"),
        ("quantization_bit", 8, "4 bits by bitsandbytes"),
        ("val_size", 500, "not a number of rows"),
        ("an_odd_setting", 1, "no such setting"),
    ],
)
def test_what_a_recipe_cannot_say_is_listed_with_the_reason(
    name: str, value: Any, why: str, place: Place
) -> None:
    made = captured(place, CLICKED | {name: value})
    (note,) = [note for note in made.notes if note.fate is Fate.LOST]
    assert (note.name, note.value) == (name, value)
    assert why in note.why


def test_settings_of_what_is_switched_off_lose_nothing(place: Place) -> None:
    off = {"galore_rank": 8, "pref_beta": 0.3, "freeze_extra_modules": "norm", "use_badam": False}
    made = captured(place, CLICKED | off)
    assert {fates(made)[name] for name in off} == {Fate.NO_EFFECT}
    on = captured(place, CLICKED | {"use_galore": True, "galore_rank": 8})
    assert fates(on)["galore_rank"] is Fate.LOST


@pytest.mark.parametrize(
    ("given", "adapter"),
    [
        ({}, {"trainable_layers": 2}),
        ({"freeze_trainable_layers": -3}, {"trainable_layers": -3}),
        (
            {"freeze_trainable_layers": 1, "freeze_trainable_modules": "mlp, self_attn"},
            {"trainable_layers": 1, "trainable_modules": ["mlp", "self_attn"]},
        ),
        ({"freeze_trainable_modules": "all"}, {"trainable_layers": 2}),
    ],
)
def test_freeze_tuning_trains_some_layers(
    given: dict[str, Any], adapter: dict[str, Any], place: Place
) -> None:
    made = captured(place, CLICKED | {"finetuning_type": "freeze"} | given)
    assert made.recipe["train"]["adapter"] == {"type": "none"} | adapter
    assert made.recipe["train"]["backend"] == "llamafactory"
    assert [note for note in made.notes if note.fate is Fate.LOST] == []
    extra = captured(
        place, CLICKED | {"finetuning_type": "freeze", "freeze_extra_modules": "norm"} | given
    )
    assert fates(extra)["freeze_extra_modules"] is Fate.LOST


def test_what_llamafactory_holds_in_16_bits_is_trained_natively(place: Place) -> None:
    config = place.workspace / "models" / "tiny" / "config.json"
    config.write_text(config.read_text().replace('"float32"', '"bfloat16"'))
    made = captured(place, CLICKED | {"finetuning_type": "freeze"})
    assert made.recipe["train"]["backend"] == "native"
    assert fates(made)["stage"] is Fate.CLOSE


@pytest.mark.parametrize(
    ("packing", "backend"), [(None, "native"), (True, "native"), (False, "llamafactory")]
)
def test_texts_are_captured_with_the_packing_that_stage_pt_has(
    packing: bool | None, backend: str, place: Place
) -> None:
    given = CLICKED | {"stage": "pt", "dataset": "texts", "packing": packing}
    made = captured(place, given)
    assert made.recipe["data"]["train"] == [
        {"path": "../data/texts.jsonl", "format": "text", "columns": {"text": "content"}}
    ]
    train = made.recipe["train"]
    assert (train["method"], train["backend"]) == ("pretrain", backend)
    assert made.recipe["data"]["packing"] is (packing is not False)
    assert [note for note in made.notes if note.fate is Fate.LOST] == []
    load_text(place, made.recipe)


@pytest.mark.parametrize(
    ("names", "files", "lost"),
    [
        ("turns", [("turns.json", "sharegpt")], {}),
        (["faq", "turns"], [("faq.jsonl", "alpaca"), ("turns.json", "sharegpt")], {}),
        ("faq, renamed", [("faq.jsonl", "alpaca")], {"renamed": "another form"}),
        ("faq,ranked", [("faq.jsonl", "alpaca")], {"ranked": "ranking"}),
        ("faq,far", [("faq.jsonl", "alpaca")], {"far": "org/rows of the hub"}),
        ("faq,none", [("faq.jsonl", "alpaca")], {"none": "no data set of that name"}),
    ],
)
def test_data_sets_become_files_of_their_format(
    names: Any, files: list[tuple[str, str]], lost: dict[str, str], place: Place
) -> None:
    made = captured(place, CLICKED | {"dataset": names})
    assert made.recipe["data"]["train"] == [
        {"path": f"../data/{file}", "format": form} for file, form in files
    ]
    notes = {note.value: note.why for note in made.notes if note.fate is Fate.LOST}
    assert set(notes) == set(lost)
    assert all(why in notes[name] for name, why in lost.items())


def test_a_silent_file_gets_llamafactorys_own_defaults(place: Place) -> None:
    least = {"model_name_or_path": "models/tiny", "dataset": "faq", "template": "qwen"}
    train = captured(place, least, None).recipe["train"]
    assert train["adapter"] | {"type": "lora", "r": 8, "lora_alpha": 16} == train["adapter"]
    assert (train["learning_rate"], train["optim"]) == (5e-5, "adamw_torch_fused")
    assert (train["num_train_epochs"], train["per_device_train_batch_size"]) == (3.0, 8)
    assert (train["lr_scheduler_type"], train["gradient_checkpointing"]) == ("linear", True)


@pytest.mark.parametrize(
    ("word", "optim", "fate"),
    [
        ("adamw_bnb_8bit", "adamw_8bit", Fate.MAPPED),
        ("paged_adamw_8bit", "paged_adamw_8bit", Fate.MAPPED),
        ("paged_adamw", "paged_adamw_32bit", Fate.MAPPED),
        ("adafactor", "adafactor", Fate.MAPPED),
        ("sgd", "sgd", Fate.MAPPED),
        ("adamw_apex_fused", "adamw_torch", Fate.CLOSE),
        ("ao_adamw_8bit", "adamw_torch", Fate.CLOSE),
        ("lion_8bit", "adamw_torch", Fate.LOST),
    ],
)
def test_an_optimizer_is_the_recipe_s_own_a_near_one_or_lost(
    word: str, optim: str, fate: Fate, place: Place
) -> None:
    made = captured(place, CLICKED | {"optim": word})
    assert made.recipe["train"]["optim"] == optim
    assert [note.fate for note in made.notes if note.name == "optim"] == [fate]


def test_numbers_that_yaml_reads_as_text_are_numbers(place: Place) -> None:
    """`learning_rate: 5e-5` is text to PyYAML, and LLaMA Factory reads it as a number."""
    made = captured(place, CLICKED | {"learning_rate": "5e-5", "warmup_steps": 3.0})
    assert made.recipe["train"]["learning_rate"] == 5e-5
    assert made.recipe["train"]["warmup_steps"] == 3


@pytest.mark.parametrize(
    ("change", "steps"),
    [
        ({"max_steps": 200}, 20),
        # 10 rows in batches of 2 x 8: one step a pass, three passes
        ({"num_train_epochs": 3.0}, 1),
        ({"num_train_epochs": 3.0, "gradient_accumulation_steps": 1}, 2),
        ({"max_steps": 200, "warmup_steps": 7}, 7),
    ],
)
def test_a_part_of_the_steps_becomes_a_number(
    change: dict[str, Any], steps: int, place: Place
) -> None:
    made = captured(place, CLICKED | {"warmup_ratio": 0.1} | change)
    assert made.recipe["train"]["warmup_steps"] == steps
    assert [note for note in made.notes if note.fate is Fate.LOST] == []


def test_a_model_of_the_hub_is_pinned_to_the_commit_in_the_cache(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    settings = CLICKED | {"model_name_or_path": "org/model"}
    unknown = captured(place, settings)
    assert unknown.recipe["model"]["revision"] == "main"
    assert fates(unknown)["model_revision"] is Fate.CLOSE
    repository = tmp_path / "hf" / "hub" / "models--org--model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("ab" * 20)
    snapshot = repository / "snapshots" / ("ab" * 20)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text('{"torch_dtype": "float16"}')
    known = captured(place, settings)
    assert known.recipe["model"] == {
        "hub": "org/model",
        "revision": "ab" * 20,
        "dtype": "float16",
        "attn_implementation": "sdpa",
    }


def test_secrets_are_not_printed(place: Place) -> None:
    secrets = {"hf_hub_token": "hf_abc", "swanlab_api_key": "key-1", "hub_token": "hf_def"}
    made = captured(place, CLICKED | secrets)
    assert not any(secret in str(made) for secret in secrets.values())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"stage": "ppo"}, "stage: ppo cannot be captured: it writes answers while it trains"),
        ({"stage": "rm"}, "stage: rm cannot be captured: LLaMA Factory's reward model gives a"),
        ({"finetuning_type": "oft"}, "finetuning_type: oft cannot be captured"),
        (
            {"finetuning_type": "freeze", "freeze_trainable_layers": 0},
            "freeze_trainable_layers is 0",
        ),
        ({"stage": "pt", "dataset": "chats"}, "chats: its rows are conversations"),
        ({"dataset": "far"}, "none of its data sets"),
        ({"model_name_or_path": ""}, "name no model"),
    ],
)
def test_what_no_recipe_can_train_is_refused(
    change: dict[str, Any], said: str, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    file = place.workspace / "train.yaml"
    file.write_text(yaml.safe_dump(CLICKED | change))
    output = place.recipe / "x.yaml"
    status = main(["capture", str(file), "-o", str(output), "--workspace", str(place.workspace)])
    assert status == 2
    words = capsys.readouterr().err
    assert "error[E851]" in words
    assert said in words
    assert not output.exists()


def load_text(place: Place, recipe: dict[str, Any]) -> Any:
    path = place.recipe / "clicked.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return load_recipe(path)


# --- preferences

PAIRED = CLICKED | {"stage": "dpo", "dataset": "pairs"}
JUDGED = CLICKED | {"stage": "kto", "dataset": "judged"}


@pytest.mark.parametrize(
    ("settings", "method", "own"),
    [
        (PAIRED, "dpo", {"beta": 0.1, "loss_type": "sigmoid", "label_smoothing": 0.0}),
        (
            PAIRED | {"pref_beta": 0.3, "dpo_label_smoothing": 0.2, "pref_loss": "sigmoid"},
            "dpo",
            {"beta": 0.3, "loss_type": "sigmoid", "label_smoothing": 0.2},
        ),
        (PAIRED | {"pref_loss": "orpo", "pref_beta": "1e-1"}, "orpo", {"beta": 0.1}),
        (PAIRED | {"pref_loss": "simpo"}, "simpo", {"beta": 0.1, "simpo_gamma": 0.5}),
        (
            PAIRED | {"pref_loss": "simpo", "pref_beta": 2.5, "simpo_gamma": 1.25},
            "simpo",
            {"beta": 2.5, "simpo_gamma": 1.25},
        ),
        (
            JUDGED | {"kto_chosen_weight": 1.5, "kto_rejected_weight": 2},
            "kto",
            {"beta": 0.1, "desirable_weight": 1.5, "undesirable_weight": 2.0},
        ),
    ],
)
def test_a_run_on_preferences_becomes_a_recipe(
    settings: dict[str, Any], method: str, own: dict[str, Any], place: Place
) -> None:
    made = captured(place, settings)
    train = made.recipe["train"]
    assert train["method"] == method
    assert {name: train.get(name) for name in METHOD_SETTINGS if name in train} == own
    assert [note for note in made.notes if note.fate is Fate.LOST] == []
    recipe = load_text(place, made.recipe)
    assert llamafactory.configuration(recipe)["stage"] == settings["stage"]
    found = fates(made)
    assert set(settings) <= set(found)
    assert found["template"] is Fate.CLOSE
    assert "template" not in train


def test_rows_of_preferences_get_their_columns(place: Place) -> None:
    assert captured(place, PAIRED).recipe["data"]["train"] == [
        {
            "path": "../data/pairs.jsonl",
            "format": "preference",
            "columns": {"prompt": "question", "chosen": "good", "rejected": "bad"},
        }
    ]
    assert captured(place, JUDGED).recipe["data"]["train"] == [
        {"path": "../data/judged.jsonl", "format": "kto", "columns": {"completion": "said"}}
    ]


@pytest.mark.parametrize(
    ("names", "why"),
    [
        ("pairs,two-parts", "it reads more beside the prompt"),
        ("pairs,turned", "its questions are turns beside the answers"),
        ("pairs,ranked", "compared (ranking) without chosen, rejected"),
        ("pairs,faq", "its rows are alpaca, and dpo learns from preference"),
        ("pairs,judged", "its rows are kto, and dpo learns from preference"),
    ],
)
def test_rows_of_preferences_that_no_recipe_reads_are_said(
    names: str, why: str, place: Place
) -> None:
    made = captured(place, PAIRED | {"dataset": names})
    (note,) = [note for note in made.notes if note.fate is Fate.LOST]
    assert why in note.why
    assert len(made.recipe["data"]["train"]) == 1


def test_a_file_out_of_the_project_is_not_read_for_its_columns(
    place: Place, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Its `input` is empty in every row, which nobody looks up."""
    outside = tmp_path_factory.mktemp("outside") / "pairs.jsonl"
    rows = place.workspace / "data" / "pairs.jsonl"
    rows.rename(outside)
    rows.symlink_to(outside)
    made = captured(place, PAIRED | {"dataset": "judged,pairs", "stage": "kto"})
    assert "it reads input beside" in next(n.why for n in made.notes if n.fate is Fate.LOST)


@pytest.mark.parametrize(
    ("change", "name", "fate", "why"),
    [
        ({"pref_loss": "hinge"}, "pref_loss", Fate.CLOSE, "computes the sigmoid loss whatever"),
        ({"pref_loss": "kto_pair"}, "pref_loss", Fate.CLOSE, "computes the sigmoid loss whatever"),
        ({"pref_loss": "ipo"}, "pref_loss", Fate.LOST, "likelihoods by token"),
        ({"pref_loss": "odd"}, "pref_loss", Fate.LOST, "no such loss"),
        ({"pref_ftx": 1.0}, "pref_ftx", Fate.LOST, "plain loss of its method"),
        ({"pref_bco_weight": 0.5}, "pref_bco_weight", Fate.LOST, "plain loss of its method"),
        ({"ld_alpha": 0.5}, "ld_alpha", Fate.LOST, "plain loss of its method"),
        ({"ref_model": "models/tiny"}, "ref_model", Fate.MAPPED, ""),
        ({"ref_model": "models/other"}, "ref_model", Fate.LOST, "another model"),
        (
            {"ref_model": "models/tiny", "quantization_bit": 4, "bf16": True},
            "ref_model",
            Fate.LOST,
            "the base in 16 bits",
        ),
        ({"ref_model_adapters": "saves/x"}, "ref_model_adapters", Fate.LOST, "plain loss"),
        ({"pref_loss": "orpo", "ref_model": "m/o"}, "ref_model", Fate.NO_EFFECT, "orpo does not"),
        ({"simpo_gamma": 2.0}, "simpo_gamma", Fate.NO_EFFECT, "dpo does not read it"),
        ({"kto_chosen_weight": 2.0}, "kto_chosen_weight", Fate.NO_EFFECT, "dpo does not read it"),
        ({"lora_dropout": 0.1}, "lora_dropout", Fate.NO_EFFECT, "switched off"),
        ({"packing": True}, "packing", Fate.NO_EFFECT, "packs none"),
        ({"neat_packing": True}, "neat_packing", Fate.LOST, "refuses it"),
    ],
)
def test_what_preferences_are_trained_by_is_said(
    change: dict[str, Any], name: str, fate: Fate, why: str, place: Place
) -> None:
    made = captured(place, PAIRED | change)
    (note,) = [note for note in made.notes if note.name == name]
    assert note.fate is fate
    assert why in note.why
    assert load_text(place, made.recipe).train.method in ("dpo", "orpo")


@pytest.mark.parametrize(
    ("change", "template", "why"),
    [
        ({}, "qwen", "where its tokens are not the model's own"),
        ({"template": "default"}, "default", "where its tokens are not the model's own"),
        ({"template": None}, None, "where none is named"),
        ({"template": "no-such"}, None, "no template of that name"),
        ({"neat_packing": True}, None, "packs are made"),
    ],
)
def test_a_named_template_is_taken_where_a_recipe_can_have_it(
    change: dict[str, Any], template: str | None, why: str, place: Place
) -> None:
    made = captured(place, CLICKED | change)
    assert made.recipe["train"].get("template") == template
    (note,) = [note for note in made.notes if note.name == "template"]
    assert why in note.why
    assert note.fate is (Fate.MAPPED if template else Fate.CLOSE)
    assert load_text(place, made.recipe).train.template == (template or "shared")


# --- the command


def written_run(place: Place, finished: bool) -> Path:
    run = place.workspace / "saves" / "Custom" / "lora" / "Train 1"
    run.mkdir(parents=True)
    (run / ARGUMENTS).write_text(yaml.safe_dump(CLICKED))
    (run / FORM).write_text(yaml.safe_dump({"top.model_name": "Custom"}))
    if finished:
        (run / RESULT).write_text("{}")
    return run


def test_the_command_writes_a_recipe_that_is_sound(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    run, output = written_run(place, True), place.recipe / "clicked.yaml"
    command = ["capture", str(run), "-o", str(output), "--workspace", str(place.workspace)]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert said.startswith("warning         trust_remote_code: true (")
    assert f"{output} is written\n" in said
    assert "not finished" not in said
    recipe = load_recipe(output)
    assert recipe.name == "clicked"
    assert recipe.train.adapter.r == 16
    before = output.read_bytes()
    assert main(command) == 2
    assert "error[E852]" in capsys.readouterr().err
    assert output.read_bytes() == before
    assert main([*command, "--force", "--format", "json"]) == 0
    report = json.loads(capsys.readouterr().out.rpartition("}\n")[0] + "}")
    assert {note["name"] for note in report["settings"]} >= set(CLICKED)


def test_what_is_not_as_it_was_stands_in_the_recipe(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    file, output = place.workspace / "train.yaml", place.recipe / "x.yaml"
    odd = {"neftune_noise_alpha": 5, "an_odd_setting": "a\nb: c\x1b[2J"}
    file.write_text(yaml.safe_dump(CLICKED | odd))
    command = ["capture", str(file), "-o", str(output), "--workspace", str(place.workspace)]
    assert main(command) == 0
    head = output.read_text().split("\n\n")[0]
    assert all(line.startswith("#") for line in head.split("\n"))
    told = head.replace("\n#     ", " ")
    assert "warning: trust_remote_code: true (the model's own code" in told
    assert "not expressible: neftune_noise_alpha: 5 (a recipe trains by the plain loss" in told
    assert 'not expressible: an_odd_setting: "a\\nb: c\\x1b[2J" (LLaMA Factory 0.9.5 has' in told
    assert "approximated: cutoff_len:" in told
    assert load_recipe(output).name == "x"
    assert "# Rank of the adapter." in output.read_text()


def test_a_model_that_is_neither_here_nor_of_the_hub_is_a_path(place: Place) -> None:
    made = captured(place, CLICKED | {"model_name_or_path": "saves/x/lora/sft"})
    assert made.recipe["model"]["path"] == "../saves/x/lora/sft"


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"cutoff_len": "long"}, "cutoff_len"),
        ({"learning_rate": float("inf")}, "learning_rate"),
        ({"lora_rank": [8]}, "lora_rank"),
        ({"lora_alpha": "many"}, "lora_alpha"),
        ({"seed": True}, "seed"),
    ],
)
def test_a_value_that_is_none_is_said_and_left_to_the_default(
    change: dict[str, Any], name: str, place: Place
) -> None:
    made = captured(place, CLICKED | change)
    (note,) = [note for note in made.notes if note.fate is Fate.LOST]
    assert (note.name, note.why) == (name, "it is no number that LLaMA Factory takes")


def test_layers_may_be_a_list(place: Place) -> None:
    made = captured(place, CLICKED | {"lora_target": ["q_proj", "v_proj"]})
    assert made.recipe["train"]["adapter"]["target_modules"] == ["q_proj", "v_proj"]


def test_a_run_that_did_not_finish_says_so(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    run = written_run(place, False)
    assert main(["capture", str(run), "--workspace", str(place.workspace)]) == 0
    said = capsys.readouterr()
    assert "it failed or was stopped" in said.err
    assert yaml.safe_load(said.out)["name"] == "train-1"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "there is no training_args.yaml"),
        ("- a list", "no mapping of settings"),
        ("a: [", "cannot be read"),
        ("!!python/object/apply:os.system ['true']", "cannot be read"),
    ],
)
def test_what_is_no_run_is_refused(
    text: str | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if text is not None:
        (tmp_path / ARGUMENTS).write_text(text)
    assert main(["capture", str(tmp_path)]) == 2
    words = capsys.readouterr().err
    assert "error[E850]" in words
    assert said in words


# --- the tables


def test_every_setting_is_in_one_table() -> None:
    cannot = [name for table in CANNOT.values() for name in table]
    assert len(cannot) == len(set(cannot))
    assert not MAPPED & NO_EFFECT
    assert not (MAPPED | NO_EFFECT) & set(cannot)
    assert set(DEFAULTS) | {"model_name_or_path"} == MAPPED


@pytest.mark.parametrize("name", ["Bad Name", "../x", ""])
def test_a_name_that_no_recipe_can_have_is_refused(
    name: str, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    file = place.workspace / "train.yaml"
    file.write_text(yaml.safe_dump(CLICKED))
    output = place.recipe / "x.yaml"
    assert main(["capture", str(file), "-o", str(output), "--name", name]) == 2
    assert "is no name for a recipe" in capsys.readouterr().err
    assert not output.exists()
