"""What TRL and PEFT do where nobody says anything. Writes spec.folder/defaults.json."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from peft import LoraConfig
from trl import SFTConfig

from runner.scripts.spec import Events, Spec, main
from runner.scripts.training.trained_files import plain
from runner.scripts.weights.model_folder import write_json


def write_defaults(spec: Spec, events: Events) -> None:
    """`trl`: SFTConfig's; `peft`: LoraConfig's. On a machine without a GPU TRL must be told so."""
    folder = str(spec.scratch)
    settings = SFTConfig(output_dir=folder, use_cpu=not torch.cuda.is_available())
    write_json(
        spec.folder / "defaults.json",
        {"trl": values_of(settings), "peft": values_of(LoraConfig())},
    )


def values_of(settings: Any) -> dict[str, Any]:
    """Field -> value as JSON data, after the class has replaced what it decides by itself."""
    names = [field.name for field in dataclasses.fields(settings)]
    return {name: shown(getattr(settings, name)) for name in names if hasattr(settings, name)}


def shown(value: Any) -> Any:
    value = plain(value)
    return value if isinstance(value, str | int | float | bool | list | dict | None) else str(value)


if __name__ == "__main__":
    main(write_defaults)
