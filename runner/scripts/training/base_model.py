"""A model's weights as a recipe holds them: dtype, attention, quantisation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from runner.scripts.training import four_bits


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
    model = family.from_pretrained(
        folder,
        dtype=getattr(torch, settings["dtype"]),
        attn_implementation=settings["attn_implementation"],
        trust_remote_code=settings.get("trust_remote_code", False),
        **four_bits.loading(settings, device),
        **changes,
    )
    if "quantization" in settings:
        four_bits.settle(model)
    return model
