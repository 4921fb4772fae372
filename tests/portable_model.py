"""Small models that go all the way to a GGUF file, for proofs that bytes are the same anywhere."""

from __future__ import annotations

import json
from pathlib import Path
from unittest.mock import patch

import numpy as np
from safetensors.numpy import load_file, save_file

from runner.scripts.tokenizers.pre_tokenizers import PRE_TOKENIZERS, pre_tokenizer_json
from tests import tiny_model
from tests.lora_files import write_adapter
from tests.talking_model import write_talking_model

# Rows that K-quants fit (256 and 512 values) in most tensors, and some that they do not (64).
WIDE = {"hidden_size": 256, "intermediate_size": 512}


def write_convertible_model(folder: Path) -> Path:
    """The model that says OK, with a way to split text that llama.cpp has a name for."""
    write_talking_model(folder)
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    tokenizer["pre_tokenizer"] = pre_tokenizer_json(PRE_TOKENIZERS["gpt-2"])
    path.write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    return folder


def write_wide_model(folder: Path) -> Path:
    """A model of random weights, most of whose rows are 256 values long or longer."""
    with patch.dict(tiny_model.CONFIG, WIDE):
        write_convertible_model(folder)
    weights = load_file(folder / "model.safetensors")
    random = np.random.default_rng(11)
    for name, values in weights.items():
        if values.ndim == 2:
            weights[name] = random.standard_normal(values.shape).astype(np.float32)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def write_adapter_of(model: Path, folder: Path, *, dora: bool = False) -> Path:
    """A LoRA or DoRA adapter for every linear layer of the model."""
    shapes = {
        name.removesuffix(".weight"): (values.shape[0], values.shape[1])
        for name, values in load_file(model / "model.safetensors").items()
        if name.endswith("_proj.weight")
    }
    write_adapter(folder, shapes, use_dora=dora)
    if dora:
        random = np.random.default_rng(5)
        path = folder / "adapter_model.safetensors"
        lengths = {
            f"base_model.model.{name}.lora_magnitude_vector": random.uniform(1, 20, rows)
            for name, (rows, _) in shapes.items()
        }
        tensors = {name: values.astype(np.float32) for name, values in lengths.items()}
        save_file(load_file(path) | tensors, path)
    return folder


def write_rows(path: Path) -> Path:
    """Alpaca rows, not in ASCII alone."""
    rows = [
        {"instruction": f"What is {n}?", "output": f"It is {n * n}, naïvely; 平方."}
        for n in range(60)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


# Settings of `prepare` for such rows, as the input `train-0`.
PREPARED = {
    "seed": 42,
    "system": "You are terse.",
    "max_length": 512,
    "too_long": "error",
    "packing": True,
    "fraction": 0.25,
    "template": None,
    "train": [{"name": "rows.jsonl", "format": "alpaca", "input": "train-0"}],
    "validation": [],
}
