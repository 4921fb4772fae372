"""Every example of another tool's settings becomes a sound recipe, and each setting is told of."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from runner.capture.captured import Fate
from runner.cli.main import main
from runner.imports import REGISTRY
from runner.imports.sheet import flat
from runner.recipe.load import check_recipe
from runner.recipe.source import read_source
from tests.imported import COMMIT, EXAMPLES, fates, imported, of_fate, values
from tests.imported import project as project  # a fixture

# --- every example


def settings_of(path: Path) -> list[str]:
    """The names of all settings in an example, found without the code that is tested."""
    if path.suffix in (".py", ".ipynb"):
        return sorted(arguments_of(path))
    data = (
        json.loads(path.read_text()) if path.suffix == ".json" else yaml.safe_load(path.read_text())
    )
    whole = path.parent.name == "llamafactory"
    return sorted(data if whole else (name for name, _ in flat(data)))


CALLS = {
    "from_pretrained", "get_peft_model", "SFTConfig", "SFTTrainer", "TrainingArguments",
    "train_test_split", "load_dataset", "DPOConfig", "DPOTrainer", "ORPOConfig", "ORPOTrainer",
    "KTOConfig", "KTOTrainer", "CPOConfig", "CPOTrainer",
}  # fmt: skip


FIRST = {"from_pretrained": "model_name", "load_dataset": "path"}


def arguments_of(path: Path) -> Iterator[str]:
    """CALL.ARGUMENT for each named argument of the calls above; `if False` is no call."""
    text = path.read_text()
    cells = [text]
    if path.suffix == ".ipynb":
        cells = ["".join(cell["source"]) for cell in json.loads(text)["cells"]
                 if cell["cell_type"] == "code"]  # fmt: skip
    seen: dict[str, int] = {}
    for cell in cells:
        if cell.startswith(("%%", "if False", "this cell")):
            continue
        for node in ast.walk(ast.parse(cell)):
            if isinstance(node, ast.Call):
                name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id  # type: ignore[attr-defined]
                if name in CALLS:
                    seen[name] = seen.get(name, 0) + 1
                    label = name if seen[name] == 1 else f"{name}#{seen[name]}"
                    yield from (f"{label}.{word.arg}" for word in node.keywords if word.arg)
                    if name in FIRST and isinstance(
                        node.args[0] if node.args else None, ast.Constant
                    ):
                        yield f"{label}.{FIRST[name]}"


def test_there_are_three_examples_of_each_source_and_some_of_preferences() -> None:
    assert {kind: sum(path.parent.name == kind for path in EXAMPLES) for kind in REGISTRY} == {
        "axolotl": 7,
        "llamafactory": 6,
        "trl": 7,
        "unsloth": 7,
    }


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_an_example_becomes_a_sound_recipe_with_a_whole_report(
    path: Path, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kind = path.parent.name
    file = f"{kind}/{path.name}"
    assert main(["new", "made.yaml", "--from", file, "--report", "json"]) == 0
    shown = capsys.readouterr()
    report = json.loads(shown.out)
    assert report["kind"] == kind
    assert report["reason"]
    recipe, found = check_recipe(Path("made.yaml"))
    assert recipe is not None
    assert {each.code for each in found} <= {"W202", "W203", "W206", "W217"}, found
    names = [note["name"] for note in report["settings"]]
    assert len(names) == len(set(names)), "a setting is told of twice"
    assert set(settings_of(path)) - set(names) == set()
    # What is not in the file is what its tool does by itself, or was added to be looked at.
    extra = {note["name"]: note["fate"] for note in report["settings"]
             if note["name"] not in settings_of(path)}  # fmt: skip
    assert set(extra.values()) <= {"default", "approximated", "warning", "mapped"}, extra
    assert all(note["why"] for note in report["settings"]
               if note["fate"] in ("not expressible", "approximated", "warning"))  # fmt: skip
    # The recipe on the disk is the recipe of the report, and says above it what was lost.
    assert read_source(Path("made.yaml")).data == report["recipe"]
    text = " ".join(Path("made.yaml").read_text().replace("\n#     ", " ").split())
    for note in report["settings"]:
        if note["fate"] in ("not expressible", "approximated", "warning"):
            assert f"{note['fate']}: {note['name']}:" in text
    assert "abcdefghijklmnopqrstuvwxyzabcdefgh" not in shown.out + shown.err + text


EXPECTED: dict[str, dict[str, Any]] = {
    "axolotl/lora.yml": {
        "seed": 7,
        "model.hub": "acme/small-1B-Instruct",
        "model.dtype": "bfloat16",
        "model.attn_implementation": "sdpa",
        "model.quantization": None,
        "data.train": [{"path": "data/turns.json", "format": "sharegpt"}],
        "data.validation": {"fraction": 0.05},
        "data.max_length": 2048,
        "data.too_long": "truncate",
        "data.packing": True,
        "data.chat_template": "chatml",
        "train.adapter.type": "lora",
        "train.adapter.r": 32,
        "train.adapter.lora_alpha": 16,
        "train.adapter.lora_dropout": 0.1,
        "train.adapter.use_rslora": True,
        "train.adapter.target_modules": ["q_proj", "v_proj"],
        "train.adapter.modules_to_save": ["embed_tokens"],
        "train.num_train_epochs": 2.0,
        "train.per_device_train_batch_size": 2,
        "train.gradient_accumulation_steps": 4,
        "train.learning_rate": 1e-4,
        "train.lr_scheduler_type": "linear",
        "train.weight_decay": 0.01,
        "train.max_grad_norm": 0.5,
        "train.optim": "paged_adamw_8bit",
        "train.warmup_steps": 7,
        "train.bf16": True,
        "train.gradient_checkpointing": True,
    },
    "axolotl/qlora.yml": {
        "seed": 42,
        "model.path": "models/tiny",
        "model.dtype": "bfloat16",
        "model.quantization": {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": False,
            "bnb_4bit_compute_dtype": "bfloat16",
        },
        "data.train": [{"path": "data/faq.jsonl", "format": "alpaca"}],
        "data.validation": {"fraction": 0.0},
        "data.too_long": "drop",  # axolotl's own, ours is an error
        "train.adapter.target_modules": "all-linear",
        "train.adapter.lora_dropout": 0.0,
        "train.gradient_accumulation_steps": 8,
        "train.lr_scheduler_type": "cosine",
        "train.num_train_epochs": 1.0,
        "train.warmup_steps": 0,  # a tenth of 5 steps, rounded down as axolotl does
        "train.optim": "adamw_torch",
    },
    "axolotl/full.yml": {
        "model.dtype": "float32",
        "model.attn_implementation": "eager",
        "data.train": [{"path": "data/chats.jsonl", "format": "messages"}],
        "data.max_length": 512,  # axolotl's own
        "train.adapter": {"type": "none"},
        "train.max_steps": 30,
        "train.num_train_epochs": None,
        "train.per_device_train_batch_size": 1,
        "train.lr_scheduler_type": "cosine",
        "train.optim": "adamw_torch_fused",  # axolotl's own
        "train.warmup_steps": 0,  # 3 per cent of 30 steps, axolotl's own
        "train.bf16": False,
        "train.save_steps": 10,
    },
    "axolotl/dpo.yml": {
        "data.train": [{"path": "data/preferences.jsonl", "format": "preference"}],
        "data.packing": False,
        "train.method": "dpo",
        "train.beta": 0.2,
        "train.loss_type": "ipo",
        "train.label_smoothing": 0.0,
        "train.max_steps": 20,
    },
    "trl/lora.yaml": {
        "seed": 13,
        "model.hub": "acme/small-1B-Instruct",
        "model.revision": "v1.0",
        "model.dtype": "bfloat16",
        "model.attn_implementation": "sdpa",
        "data.train": [{"path": "data/chats.jsonl", "format": "messages"}],
        "data.validation": {"fraction": 0.2},
        "data.max_length": 512,
        "data.too_long": "truncate",
        "data.packing": True,
        "train.adapter.r": 8,
        "train.adapter.lora_alpha": 24,
        "train.adapter.lora_dropout": 0.0,
        "train.adapter.use_dora": True,
        "train.adapter.target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"],
        "train.num_train_epochs": 2.0,
        "train.learning_rate": 2e-4,
        "train.lr_scheduler_type": "cosine",
        "train.warmup_steps": 0,  # a tenth of the steps, which packs leave unknown
        "train.bf16": True,
        "train.gradient_checkpointing": False,
        "train.optim": "adamw_8bit",
    },
    "trl/qlora.json": {
        "model.dtype": "float32",  # TRL's own, whatever config.json says
        "model.quantization": {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "fp4",
            "bnb_4bit_use_double_quant": True,
            "bnb_4bit_compute_dtype": "bfloat16",
        },
        "data.train": [{"path": "data/pairs.jsonl", "format": "prompt-completion"}],
        "data.max_length": 1024,
        "train.adapter.r": 16,
        "train.adapter.lora_alpha": 32,
        "train.adapter.lora_dropout": 0.05,
        "train.adapter.target_modules": ["q_proj", "v_proj"],
        "train.max_steps": 40,
        "train.warmup_steps": 4,
        "train.save_steps": None,
    },
    "trl/full.yaml": {
        "seed": 42,
        "train.adapter": {"type": "none"},
        "train.learning_rate": 2e-5,
        "train.num_train_epochs": 3.0,
        "train.per_device_train_batch_size": 8,
        "train.lr_scheduler_type": "linear",
        "train.optim": "adamw_torch_fused",
        "train.weight_decay": 0.0,
        "train.bf16": True,
        "train.gradient_checkpointing": True,
        "data.max_length": 1024,
        "data.validation": {"fraction": 0.0},
    },
    "llamafactory/lora.yaml": {
        "model.hub": "acme/small-1B-Instruct",
        "model.attn_implementation": "sdpa",
        "data.train": [
            {"path": "data/faq.jsonl", "format": "alpaca"},
            {"path": "data/turns.json", "format": "sharegpt"},
        ],
        "data.validation": {"fraction": 0.1},
        "train.backend": "llamafactory",
        "train.template": "llama3",
        "train.adapter.r": 16,
        "train.adapter.lora_alpha": 32,  # twice the rank, LLaMA Factory's own
        "train.adapter.target_modules": ["q_proj", "v_proj"],
        "train.optim": "adamw_torch_fused",
        "train.gradient_checkpointing": True,
        "train.warmup_steps": 3,  # a tenth of 27 steps
        "train.bf16": True,
    },
    "llamafactory/qlora.yaml": {
        "model.path": "models/tiny",
        "model.dtype": "float32",
        "model.quantization": {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": False,
            "bnb_4bit_compute_dtype": "bfloat16",
        },
        "data.max_length": 2048,
        "train.max_steps": 20,
        "train.adapter.r": 8,
        "train.learning_rate": 5e-5,
        "train.per_device_train_batch_size": 8,
    },
    "axolotl/simpo.yml": {
        "data.train": [{"path": "data/preferences.jsonl", "format": "preference"}],
        "train.method": "simpo",
        "train.beta": 2.0,
        "train.simpo_gamma": 1.0,
        "train.adapter.lora_dropout": 0.0,  # the trainer switches it off
    },
    "axolotl/ipo.yml": {
        "train.method": "dpo",
        "train.loss_type": "ipo",
        "train.beta": 0.5,
        "train.label_smoothing": 0.0,
        "train.adapter": {"type": "none"},
    },
    "axolotl/kto.yml": {
        "data.train": [{"path": "data/judged.jsonl", "format": "kto"}],
        "train.method": "kto",
        "train.beta": 0.1,
        "train.desirable_weight": 0.8,
        "train.undesirable_weight": 1.0,
    },
    "trl/dpo.yaml": {
        "data.train": [{"path": "data/preferences.jsonl", "format": "preference"}],
        "data.max_length": 256,
        "data.packing": False,
        "train.method": "dpo",
        "train.beta": 0.2,
        "train.loss_type": "ipo",
        "train.label_smoothing": 0.0,
        "train.learning_rate": 1e-6,  # DPOConfig's own
        "train.adapter.lora_dropout": 0.0,
        "train.adapter.target_modules": "all-linear",
    },
    "trl/kto.yaml": {
        "data.train": [{"path": "data/judged.jsonl", "format": "kto"}],
        "data.max_length": 1024,
        "train.method": "kto",
        "train.beta": 0.05,
        "train.desirable_weight": 1.5,
        "train.undesirable_weight": 1.0,
        "train.learning_rate": 1e-6,
        "train.adapter": {"type": "none"},
    },
    "trl/simpo.json": {
        "train.method": "simpo",
        "train.beta": 2.0,
        "train.simpo_gamma": 1.0,
        "train.learning_rate": 1e-5,
        "train.adapter.r": 16,
        "train.adapter.lora_dropout": 0.0,
        "train.loss_type": None,
    },
    "trl/reward.yaml": {
        "train.method": "reward",
        "train.center_rewards_coefficient": 0.01,
        "train.learning_rate": 1e-4,  # RewardConfig's own
        "train.adapter.modules_to_save": None,  # `score`, which a recipe trains anyway
    },
    "llamafactory/dpo.yaml": {
        "data.train": [{"path": "data/preferences.jsonl", "format": "preference"}],
        "train.method": "dpo",
        "train.beta": 0.1,  # LLaMA Factory's own
        "train.loss_type": "sigmoid",
        "train.label_smoothing": 0.1,
        "train.adapter.lora_dropout": 0.0,
        "train.template": None,
    },
    "llamafactory/simpo.yaml": {
        "train.method": "simpo",
        "train.beta": 2.5,
        "train.simpo_gamma": 0.5,  # LLaMA Factory's own; ours is 1
        "train.loss_type": None,
        "train.adapter": {"type": "none"},
    },
    "llamafactory/kto.yaml": {
        "data.train": [{"path": "data/judged.jsonl", "format": "kto"}],
        "train.method": "kto",
        "train.beta": 0.2,
        "train.desirable_weight": 1.0,
        "train.undesirable_weight": 1.5,
        "train.adapter.target_modules": ["q_proj", "v_proj"],
    },
    "unsloth/dpo.ipynb": {
        "seed": 42,
        "data.train": [{"path": "data/preferences.jsonl", "format": "preference"}],
        "data.max_length": 512,  # of the trainer; max_seq_length is the model's
        "train.method": "dpo",
        "train.beta": 0.2,
        "train.loss_type": "sigmoid",
        "train.adapter.r": 64,
        "train.adapter.lora_dropout": 0.0,
        "train.learning_rate": 5e-6,
        "train.warmup_steps": 1,
    },
    "unsloth/orpo.py": {
        "seed": 3407,
        "data.max_length": 1024,  # ORPOConfig's own
        "train.method": "orpo",
        "train.beta": 0.15,
        "train.learning_rate": 5e-5,  # Unsloth's own, of every trainer
        "train.per_device_train_batch_size": 4,
        "train.max_steps": 30,
    },
    "unsloth/kto.py": {
        "data.train": [{"path": "data/judged.jsonl", "format": "kto"}],
        "data.max_length": 256,
        "train.method": "kto",
        "train.beta": 0.1,
        "train.desirable_weight": 1.25,
        "train.undesirable_weight": 1.0,
    },
    "unsloth/simpo.py": {
        "train.method": "simpo",
        "train.beta": 2.0,
        "train.simpo_gamma": 1.2,
        "train.adapter.r": 32,
    },
    "llamafactory/full.yaml": {
        "train.adapter": {"type": "none"},
        "train.template": None,  # with packs
        "train.learning_rate": 1e-5,
        "train.num_train_epochs": 3.0,
        "data.packing": True,
        "train.bf16": False,
    },
    "unsloth/lora.ipynb": {
        "seed": 3407,
        "model.path": "models/tiny",
        "model.dtype": "bfloat16",
        "model.quantization": None,
        "data.max_length": 256,
        "data.too_long": "truncate",
        "train.adapter.r": 16,
        "train.adapter.lora_alpha": 16,
        "train.adapter.target_modules": [
            "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
        ],
        "train.max_steps": 10,
        "train.learning_rate": 5e-5,  # computed there; Unsloth's own
        "train.per_device_train_batch_size": 4,
        "train.gradient_accumulation_steps": 2,
        "train.weight_decay": 0.001,
        "train.optim": "adamw_8bit",
        "train.warmup_steps": 1,  # a tenth
        "train.gradient_checkpointing": True,
    },
    "unsloth/qlora.ipynb": {
        "seed": 3407,
        "model.hub": "acme/small-1B-Instruct",
        "model.quantization": {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": True,
            "bnb_4bit_compute_dtype": "bfloat16",
        },
        "data.train": [{"path": "data/chats.jsonl", "format": "messages"}],
        "data.max_length": 1024,
        "data.packing": False,
        "data.chat_template": "llama3.1",
        "train.adapter.r": 32,
        "train.adapter.lora_alpha": 64,
        "train.adapter.target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"],
        "train.max_steps": 60,
        "train.warmup_steps": 5,
        "train.learning_rate": 2e-4,
        "train.lr_scheduler_type": "linear",
        "train.weight_decay": 0.01,
        "train.bf16": True,
        "train.gradient_accumulation_steps": 4,
    },
    "unsloth/full.py": {
        "seed": 3407,
        "model.path": "models/tiny",
        "model.dtype": "float32",
        "model.quantization": None,
        "data.max_length": 2048,
        "data.validation": {"fraction": 0.1},
        "train.adapter": {"type": "none"},
        "train.num_train_epochs": 2.0,
        "train.bf16": False,
        "train.learning_rate": 5e-5,
    },
}  # fmt: skip


def test_values_are_expected_of_every_example() -> None:
    assert set(EXPECTED) == {f"{path.parent.name}/{path.name}" for path in EXAMPLES}


@pytest.mark.parametrize("file", EXPECTED)
def test_the_values_are_those_of_the_file_or_of_its_tool(file: str, project: Path) -> None:
    assert values(imported(project, file), *EXPECTED[file]) == EXPECTED[file]


@pytest.mark.parametrize(
    ("file", "lost"),
    [
        ("axolotl/lora.yml", {
            "neftune_noise_alpha", "special_tokens.pad_token", "plugins", "liger_rope", "tf32",
            "adam_beta2",
        }),
        ("axolotl/qlora.yml", {
            "datasets[1].path", "datasets[1].type", "lr_scheduler", "deepspeed",
        }),
        ("axolotl/full.yml", set()),
        ("axolotl/dpo.yml", {"sample_packing", "precompute_ref_log_probs"}),
        ("trl/lora.yaml", {
            "datasets[1].path", "datasets[1].name", "packing_strategy", "lr_scheduler_type",
            "lr_scheduler_kwargs.min_lr_rate", "adam_beta2", "data_seed", "dataset_test_split",
            "use_liger_kernel", "warmup_ratio",
        }),
        ("trl/qlora.json", {"neftune_noise_alpha"}),
        ("trl/full.yaml", set()),
        ("llamafactory/lora.yaml", set()),
        ("llamafactory/qlora.yaml", set()),
        ("llamafactory/full.yaml", {"deepspeed"}),
        ("unsloth/lora.ipynb", {"SFTConfig.learning_rate", "load_dataset#2.path",
                                "load_dataset#2.data_files"}),
        ("unsloth/qlora.ipynb", set()),
        ("unsloth/full.py", {"SFTTrainer.callbacks"}),
        ("axolotl/simpo.yml", set()),
        ("axolotl/ipo.yml", set()),
        ("axolotl/kto.yml", set()),
        ("trl/dpo.yaml", {"padding_free", "sync_ref_model"}),
        ("trl/kto.yaml", set()),
        ("trl/simpo.json", {"max_completion_length"}),
        ("trl/reward.yaml", set()),
        ("llamafactory/dpo.yaml", {"pref_ftx"}),
        ("llamafactory/simpo.yaml", set()),
        ("llamafactory/kto.yaml", set()),
        ("unsloth/dpo.ipynb", {"DPOTrainer.max_prompt_length"}),
        ("unsloth/orpo.py", {"ORPOConfig.max_completion_length"}),
        ("unsloth/kto.py", set()),
        ("unsloth/simpo.py", set()),
    ],
)  # fmt: skip
def test_what_a_recipe_cannot_say_is_listed(file: str, lost: set[str], project: Path) -> None:
    assert of_fate(imported(project, file), Fate.LOST) == lost


@pytest.mark.parametrize(
    ("file", "defaults"),
    [
        ("trl/full.yaml", {
            "learning_rate": 2e-5, "num_train_epochs": 3.0, "per_device_train_batch_size": 8,
            "bf16": True, "gradient_checkpointing": True, "max_length": 1024, "dtype": "float32",
        }),
        ("axolotl/full.yml", {
            "sequence_len": 512, "optimizer": "adamw_torch_fused", "lr_scheduler": "cosine",
            "excess_length_strategy": "drop", "micro_batch_size": 1, "seed": 42,
        }),
        ("llamafactory/full.yaml", {
            "num_train_epochs": 3.0, "per_device_train_batch_size": 8, "optim": "adamw_torch_fused",
            "lr_scheduler_type": "linear",
        }),
        ("unsloth/lora.ipynb", {
            "r": 16, "lora_alpha": 16, "seed": 3407, "optim": "adamw_8bit", "weight_decay": 0.001,
            "per_device_train_batch_size": 4,
        }),
        ("trl/kto.yaml", {"learning_rate": 1e-6, "undesirable_weight": 1.0, "max_length": 1024}),
        ("trl/reward.yaml", {"learning_rate": 1e-4, "lora_dropout": 0.05}),
        ("llamafactory/dpo.yaml", {"pref_beta": 0.1}),
        ("llamafactory/simpo.yaml", {"simpo_gamma": 0.5}),
        ("unsloth/kto.py", {"beta": 0.1, "undesirable_weight": 1.0, "seed": 3407}),
        ("axolotl/kto.yml", {"rl_beta": 0.1, "kto_undesirable_weight": 1.0}),
    ],
)  # fmt: skip
def test_what_the_tool_does_by_itself_is_written_out(
    file: str, defaults: dict[str, Any], project: Path
) -> None:
    told = {note.name: note.value for note in imported(project, file).notes
            if note.fate is Fate.DEFAULT}  # fmt: skip
    assert {name: told.get(name) for name in defaults} == defaults


def test_a_models_own_code_is_named_and_not_copied(project: Path) -> None:
    for file in ("axolotl/lora.yml", "trl/lora.yaml", "llamafactory/lora.yaml"):
        made = imported(project, file)
        assert of_fate(made, Fate.WARNING) == {"trust_remote_code"}
        assert "trust_remote_code" not in made.recipe["model"]


def test_a_cell_that_is_no_python_is_named(project: Path) -> None:
    made = imported(project, "unsloth/qlora.ipynb")
    (note,) = [note for note in made.notes if note.fate is Fate.WARNING]
    assert note.value.startswith("cell 8 is no Python")
    assert fates(made)["map()"] is Fate.CLOSE
    assert fates(made)["train_on_responses_only()"] is Fate.MAPPED


def test_a_repository_in_four_bits_gives_way_to_its_own(project: Path) -> None:
    made = imported(project, "unsloth/qlora.ipynb")
    assert fates(made)["from_pretrained.model_name"] is Fate.CLOSE
    assert made.recipe["model"]["hub"] == "acme/small-1B-Instruct"


def test_a_model_of_the_hub_is_pinned_to_the_commit_in_the_cache(
    project: Path, tmp_path: Path
) -> None:
    refs = tmp_path / "hf" / "hub" / "models--acme--small-1B-Instruct" / "refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text(COMMIT)
    assert imported(project, "axolotl/lora.yml").recipe["model"]["revision"] == COMMIT
    other = "f" * 40
    made = imported(project, "axolotl/lora.yml", revision=other)
    assert made.recipe["model"]["revision"] == other
    # A stranger's branch is no way to another file of this machine.
    (tmp_path / "secret").write_text(COMMIT)
    config = yaml.safe_load(Path("axolotl/lora.yml").read_text())
    config["model_revision"] = "../../../../secret"
    Path("x.yml").write_text(yaml.safe_dump(config))
    assert imported(project, "x.yml").recipe["model"]["revision"] == "../../../../secret"
