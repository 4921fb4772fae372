"""Llama and Mistral: rows of q and k in llama.cpp's order; Llama 3's rope scaling as a tensor."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from runner.scripts.from_gguf.architectures.base import (
    ATTENTION,
    MLP,
    Architecture,
    head_dim,
    names,
    not_understood,
    rope,
    sizes,
)

if TYPE_CHECKING:
    from runner.scripts.from_gguf.gguf_model import GgufFile

ROPE_FREQS = "rope_freqs.weight"
# Llama 3.1, 3.2 and 3.3 have the first; the others are what the same formula is used with.
_LENGTHS = (8192, 4096, 16384, 32768, 2048)
_LOW, _HIGH = 1.0, 4.0


def llama_config(source: GgufFile) -> dict[str, Any]:
    """As LlamaConfig has it; a Mistral without windows is the same model."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **sizes(source, "llama"),
        "head_dim": head_dim(source, "llama"),
        "hidden_act": "silu",
        **rope(source, "llama"),
        "attention_bias": "blk.0.attn_q.bias" in source.tensors,
        "mlp_bias": "blk.0.ffn_up.bias" in source.tensors,
    }
    if ROPE_FREQS in source.tensors:
        config["rope_parameters"] |= llama3_scaling(
            source, config["rope_theta"], config["head_dim"]
        )
    return config


def llama3_scaling(source: GgufFile, theta: float, width: int) -> dict[str, Any]:
    """The scaling whose divisors are those of the file. Raises ScriptError E314 when none fits."""
    stored = source.rows(ROPE_FREQS, 0, 1).reshape(-1)
    factor = float(stored.max())
    for length in _LENGTHS:
        if np.allclose(llama3_divisors(theta, width, factor, length), stored, rtol=1e-5, atol=0):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": _LOW,
                "high_freq_factor": _HIGH,
                "original_max_position_embeddings": length,
            }
    raise not_understood(source, "has rope frequencies that no Llama 3 scaling gives")


def llama3_divisors(theta: float, width: int, factor: float, length: int) -> list[float]:
    """What each frequency is divided by: 1 for short waves, `factor` for long ones."""
    divisors = []
    for index in range(0, width, 2):
        wave = 2 * math.pi * theta ** (index / width)
        part = (length / wave - _LOW) / (_HIGH - _LOW)
        if wave < length / _HIGH:
            divisors.append(1.0)
        elif wave > length / _LOW:
            divisors.append(factor)
        else:
            divisors.append(1 / ((1 - part) / factor + part))
    return divisors


LLAMA = Architecture(
    config=llama_config,
    names=names({**ATTENTION, "ffn_norm": "post_attention_layernorm", **MLP}),
    heads={
        f"blk.{{n}}.attn_{ours}.{kind}": f"llama.attention.head_count{suffix}"
        for ours, suffix in (("q", ""), ("k", "_kv"))
        for kind in ("weight", "bias")
    },
    ignored=frozenset({ROPE_FREQS}),
)
