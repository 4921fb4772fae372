"""What TRL and PEFT do where nobody says anything. Writes spec.folder/defaults.json."""

from __future__ import annotations

import torch
from peft import LoraConfig
from trl import DPOConfig, KTOConfig, RewardConfig, SFTConfig
from trl.experimental.cpo import CPOConfig
from trl.experimental.orpo import ORPOConfig

from runner.scripts.spec import Events, Spec, main
from runner.scripts.training.own_values import values_of
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


if __name__ == "__main__":
    main(write_defaults)
