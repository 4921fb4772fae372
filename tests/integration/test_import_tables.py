"""The tables of `recipe new --from` against the fields and defaults of the installed TRL."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

from runner.imports import trl_settings as trl
from runner.imports.methods import METHODS

FIELDS = """
import dataclasses, json
from trl import DPOConfig, KTOConfig, ModelConfig, RewardConfig, ScriptArguments, SFTConfig
from trl.experimental.cpo import CPOConfig
from trl.experimental.orpo import ORPOConfig
from trl.scripts.utils import DatasetMixtureConfig
kinds = {"sft": (SFTConfig, ModelConfig, ScriptArguments, DatasetMixtureConfig),
         "dpo": (DPOConfig,), "orpo": (ORPOConfig,), "simpo": (CPOConfig,), "kto": (KTOConfig,),
         "reward": (RewardConfig,)}
found = {name: {} for name in kinds}
for name, of_kind in kinds.items():
    for field in (field for kind in of_kind for field in dataclasses.fields(kind)):
        made = field.default_factory
        value = made() if made is not dataclasses.MISSING else field.default
        found[name][field.name] = getattr(value, "value", value)
print(json.dumps(found))
"""
# Of older versions of TRL and Transformers, which people's files still have.
OLDER = {
    "torch_dtype",
    "max_seq_length",
    "warmup_ratio",
    "overwrite_output_dir",
    "logging_dir",
    "include_tokens_per_second",
    "evaluation_strategy",
    "include_inputs_for_metrics",
    "save_safetensors",
    "dataset_batch_size",
    "jit_mode_eval",
    "no_cuda",
    "group_by_length",
    "max_prompt_length",
    "rpo_alpha",
    "reference_free",
    "force_use_ref_model",
    "ref_model_init_kwargs",
    "label_pad_token_id",
    "model_adapter_name",
    "ref_adapter_name",
}
OF_A_PROGRAM = {"ref_model"}  # an argument of the trainer
# Where a trainer's default is another than that of `trl sft`, beside the rate; each is told of.
OTHERWISE = {"dpo": {"loss_type"}, "simpo": {"loss_type"}, "kto": {"loss_type",
             "train_sampling_strategy"}, "orpo": set(), "reward": set()}  # fmt: skip
OF_THE_COMMAND_LINE = {"config", "env"}


def test_the_tables_are_trls_own(environment_python: Callable[[str], Path]) -> None:
    said = subprocess.run(
        [str(environment_python("native")), "-c", FIELDS],
        capture_output=True,
        text=True,
        check=True,
    )
    by_method = json.loads(said.stdout.split("\n")[-2])
    fields = {name: value for each in reversed(by_method.values()) for name, value in each.items()}
    cannot = {name: usual for table in trl.CANNOT.values() for name, usual in table.items()}
    known = trl.MAPPED | trl.NO_EFFECT | set(cannot)
    assert set(fields) - known == set()
    assert known - set(fields) == OLDER | OF_THE_COMMAND_LINE | OF_A_PROGRAM
    assert {name: fields[name] for name in cannot if name in fields} == {
        name: usual for name, usual in cannot.items() if name in fields
    }
    defaults = {name: each.default for name, each in {**trl.TRAIN, **trl.LORA}.items()}
    assert {name: fields[name] for name in defaults} == defaults
    assert fields["attn_implementation"] is None  # Transformers then takes sdpa
    assert fields["bf16"] is None  # TRL then takes bf16 unless fp16 is given
    for name, value in {"seed": 42, "max_length": 1024, "num_train_epochs": 3.0, "dtype": "float32",
                        "warmup_steps": 0, "max_steps": -1}.items():  # fmt: skip
        assert fields[name] == value
    for method, rate in trl.LEARNING_RATES.items():
        own = by_method[method]
        assert own["learning_rate"] == rate
        same = {name for name in own if name in by_method["sft"]} - {"learning_rate"}
        assert {n for n in same if own[n] != by_method["sft"][n]} == OTHERWISE[method]
        for name, each in METHODS[method].settings["trl"].items():
            assert own[name] in (each.default, [each.default], None if not each.default else 0)
    assert by_method["kto"]["train_sampling_strategy"] == "sequential"
