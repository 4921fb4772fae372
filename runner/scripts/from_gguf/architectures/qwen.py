"""Qwen 2, 2.5 and 3: biases on q, k and v in the older ones, norms on q and k in the newer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runner.scripts.from_gguf.architectures.base import (
    ATTENTION,
    MLP,
    QK_NORM,
    Architecture,
    head_dim,
    names,
    rope,
    sizes,
)

if TYPE_CHECKING:
    from runner.scripts.from_gguf.gguf_model import GgufFile

_LAYER = {**ATTENTION, "ffn_norm": "post_attention_layernorm", **MLP}


def qwen2_config(source: GgufFile) -> dict[str, Any]:
    """As Qwen2Config has it; no file says of windows, which no published model of it uses."""
    config = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        **sizes(source, "qwen2"),
        "hidden_act": "silu",
        **rope(source, "qwen2"),
        "use_sliding_window": False,
    }
    width = head_dim(source, "qwen2")
    if width * config["num_attention_heads"] != config["hidden_size"]:
        config["head_dim"] = width
    return config


def qwen3_config(source: GgufFile) -> dict[str, Any]:
    """As Qwen3Config has it."""
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        **sizes(source, "qwen3"),
        "head_dim": head_dim(source, "qwen3"),
        "hidden_act": "silu",
        **rope(source, "qwen3"),
        "attention_bias": "blk.0.attn_q.bias" in source.tensors,
        "use_sliding_window": False,
    }


QWEN2 = Architecture(config=qwen2_config, names=names(_LAYER))
QWEN3 = Architecture(config=qwen3_config, names=names({**_LAYER, **QK_NORM}))
