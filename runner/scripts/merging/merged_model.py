"""The merged model as Transformers loads it to be measured, whatever the machine's memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from runner.scripts.weights.safetensors_stream import SafetensorsFile

SPARE = 1.25  # of the weights' size: room for activations beside them


@dataclass(frozen=True, slots=True)
class Merged:
    """`streamed`: each weight is read from its file when it is its turn, so ask in few passes."""

    model: Any
    device: str  # where its inputs belong
    streamed: bool


def load_merged(
    folder: Path, *, trust_remote_code: bool, memory: int, exact: bool = True
) -> Merged:
    """The model, ready to be asked. `memory`: bytes that this process may take on a CPU. `exact`:
    in float32 where it can be; else in the weights' own dtype.

    float32 is the weights' exact value; on a GPU, and where float32 does not fit, they keep their
    own dtype. A model that does not fit even so stays on the disk (accelerate's disk offload): one
    tensor at a time is in memory.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        memory = torch.cuda.mem_get_info()[0]
    stored, in_float32 = sizes(folder)
    wide = exact and device == "cpu" and in_float32 * SPARE <= memory
    streamed = not wide and stored * SPARE > memory
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.float32 if wide else "auto",
        attn_implementation=attention_for(folder),
        local_files_only=True,
        trust_remote_code=trust_remote_code,
        **(on_disk(device, memory) if streamed else {}),
    )
    return Merged((model if streamed else model.to(device)).eval(), device, streamed)


def sizes(folder: Path) -> tuple[int, int]:
    """Bytes of a model folder's weights as they are stored, and in float32."""
    stored = elements = 0
    for path in sorted(folder.glob("*.safetensors")):
        with SafetensorsFile(path) as file:
            for spec in file.specs:
                size = spec.row_bytes * (spec.shape[0] if spec.shape else 1)
                stored += size
                elements += size // (4 if spec.dtype == "F32" else 2)
    return stored, 4 * elements


def on_disk(device: str, memory: int) -> dict[str, Any]:
    """Loading that leaves weights in their files; a GPU keeps those that half of it can hold."""
    if device == "cpu":
        return {"device_map": {"": "disk"}}
    return {"device_map": "auto", "max_memory": {0: memory // 2, "cpu": 0}}


def attention_for(model: Path) -> str:
    """`sdpa`, or `eager` for architectures such as Gemma 2, whose soft caps sdpa does not have."""
    config = AutoConfig.from_pretrained(model, local_files_only=True)
    architecture = AutoModelForCausalLM._model_mapping[type(config)]
    return "sdpa" if architecture._supports_sdpa else "eager"
