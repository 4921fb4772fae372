"""What TRL and PEFT do where nobody says anything. Writes spec.folder/defaults.json."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from peft import LoraConfig
from trl import DPOConfig, KTOConfig, RewardConfig, SFTConfig
from trl.experimental.cpo import CPOConfig
from trl.experimental.orpo import ORPOConfig

from runner.scripts.spec import Events, Spec, main
from runner.scripts.training.trained_files import plain
from runner.scripts.weights.model_folder import write_json

# Method of a recipe -> the settings of TRL's trainer for it; SimPO is a loss of CPO's.
CONFIGS = {
    "sft": SFTConfig,
    "pretrain": SFTConfig,
    "dpo": DPOConfig,
    "orpo": ORPOConfig,
    "simpo": CPOConfig,
    "kto": KTOConfig,
    "reward": RewardConfig,
}


def write_defaults(spec: Spec, events: Events) -> None:
    """`trl-METHOD`: of its trainer; `peft`: LoraConfig's. Without a GPU TRL must be told so."""
    how = {"output_dir": str(spec.scratch), "use_cpu": not torch.cuda.is_available()}
    own = {f"trl-{method}": values_of(config(**how)) for method, config in CONFIGS.items()}
    write_json(spec.folder / "defaults.json", {**own, "peft": values_of(LoraConfig())})


def values_of(settings: Any) -> dict[str, Any]:
    """Field -> value as JSON data, after the class has replaced what it decides by itself."""
    names = [field.name for field in dataclasses.fields(settings)]
    return {name: shown(getattr(settings, name)) for name in names if hasattr(settings, name)}


def shown(value: Any) -> Any:
    value = plain(value)
    return value if isinstance(value, str | int | float | bool | list | dict | None) else str(value)


if __name__ == "__main__":
    main(write_defaults)
