"""Gemma 2 and 3: norms that add one, four of them a layer, and windows in some layers.

Which layers have windows is no part of a file: llama.cpp knows it by the architecture (every other
one, five of six), and takes the attention's scale from the head's width but for the 27B models,
which it knows by their number of layers.
"""

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
    scaling,
    sizes,
)

if TYPE_CHECKING:
    from runner.scripts.from_gguf.gguf_model import GgufFile

_LAYER = {
    **ATTENTION,
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
    **MLP,
}
# layers of the models whose attention is scaled by hidden_size / heads
_LAYERS_OF_27B = {"gemma2": 46, "gemma3": 62}
_PATTERN = {"gemma2": 2, "gemma3": 6}  # the last of so many layers sees everything


def _config(source: GgufFile, name: str) -> dict[str, Any]:
    config = sizes(source, name)
    width, layers = head_dim(source, name), config["num_hidden_layers"]
    by_hidden = layers == _LAYERS_OF_27B[name]
    every = _PATTERN[name]
    return {
        **config,
        "head_dim": width,
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": False,
        "query_pre_attn_scalar": config["hidden_size"] // config["num_attention_heads"]
        if by_hidden
        else width,
        "sliding_window": source.value(f"{name}.attention.sliding_window"),
        "layer_types": [
            "full_attention" if (index + 1) % every == 0 else "sliding_attention"
            for index in range(layers)
        ],
        "attn_logit_softcapping": source.value(f"{name}.attn_logit_softcapping", None),
        "final_logit_softcapping": source.value(f"{name}.final_logit_softcapping", None),
    }


def gemma2_config(source: GgufFile) -> dict[str, Any]:
    """As Gemma2Config has it."""
    names_ = {"architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2"}
    return names_ | _config(source, "gemma2") | rope(source, "gemma2")


def gemma3_config(source: GgufFile) -> dict[str, Any]:
    """As Gemma3TextConfig has it: two ropes, and only the one of the full layers is scaled."""
    near = source.value("gemma3.rope.freq_base_swa", 10000.0)
    far = {**scaling(source, "gemma3"), "rope_theta": source.value("gemma3.rope.freq_base")}
    return {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        **_config(source, "gemma3"),
        "rope_parameters": {
            "full_attention": far,
            "sliding_attention": {"rope_type": "default", "rope_theta": near},
        },
    }


GEMMA2 = Architecture(config=gemma2_config, names=names(_LAYER), norm_shift=1.0)
GEMMA3 = Architecture(config=gemma3_config, names=names({**_LAYER, **QK_NORM}), norm_shift=1.0)
