"""Which attention a model is measured with: the fused one, where its architecture can."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoConfig, AutoModelForCausalLM


def attention_for(model: Path) -> str:
    """`sdpa`, or `eager` for architectures such as Gemma 2, whose soft caps sdpa does not have."""
    config = AutoConfig.from_pretrained(model, local_files_only=True)
    architecture = AutoModelForCausalLM._model_mapping[type(config)]
    return "sdpa" if architecture._supports_sdpa else "eager"
