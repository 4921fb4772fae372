"""A model's weights as a recipe holds them: dtype, attention, quantisation."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from runner.scripts.training import four_bits, tensor_reader


def read_model(
    folder: Path,
    settings: dict[str, Any],
    device: torch.device,
    family: Any = AutoModelForCausalLM,
    **changes: Any,
) -> Any:
    """The model in `folder`. A quantised one lies on `device`, another one is yet to be moved.

    `changes`: to the model's configuration. Raises ValueError where Transformers refuses.
    """
    loading = arguments(settings, device)
    reading = tensor_reader.by_tensor if reads_by_tensor(folder, settings, device) else nullcontext
    with reading():
        model = family.from_pretrained(folder, **loading, **changes)
    if "quantization" in settings:
        four_bits.settle(model)
    return model


def arguments(settings: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """What `from_pretrained` is told of the recipe."""
    return {
        "dtype": getattr(torch, settings["dtype"]),
        "attn_implementation": settings["attn_implementation"],
        "trust_remote_code": settings.get("trust_remote_code", False),
        **four_bits.loading(settings, device),
    }


def reads_by_tensor(folder: Path, settings: dict[str, Any], device: torch.device) -> bool:
    """Is the model read tensor by tensor? The weights are the same either way.

    Not where its files can be used as they are: a mapped file needs no memory of its own, but for a
    GPU that shares it. Where that is so because the model is
    not one that is known, the log says why.
    """
    reason = tensor_reader.why_not(folder)
    if reason:
        print(f"loaded by Transformers alone, in more memory: {reason}", file=sys.stderr)
        return False
    if "quantization" in settings or shares_memory(device):
        return True
    return not tensor_reader.is_stored_as(folder, getattr(torch, settings["dtype"]))


def shares_memory(device: torch.device) -> bool:
    """Does the GPU use the machine's own memory, as a GB10 does?"""
    return device.type == "cuda" and bool(torch.cuda.get_device_properties(device).is_integrated)
