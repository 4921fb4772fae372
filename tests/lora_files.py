"""A LoRA adapter as PEFT writes it, of random weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file


def write_adapter(
    folder: Path, shapes: Mapping[str, tuple[int, int]], rank: int = 8, **settings: Any
) -> Path:
    """`shapes`: module name -> [out, in]. `settings` are added to adapter_config.json."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(3)

    def matrix(rows: int, columns: int) -> np.ndarray:
        return (generator.standard_normal((rows, columns)) * 0.05).astype(np.float32)

    tensors = {}
    for name, (rows, columns) in shapes.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = matrix(rank, columns)
        tensors[f"base_model.model.{name}.lora_B.weight"] = matrix(rows, rank)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": 2 * rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted({name.rsplit(".", 1)[-1] for name in shapes}),
        "base_model_name_or_path": None,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config | settings))
    return folder
