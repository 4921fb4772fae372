"""Phi-3 and Phi-4: q, k and v in one matrix, gate and up in another; long contexts by factors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runner.scripts.from_gguf.architectures.base import Architecture, names, rope, sizes

if TYPE_CHECKING:
    from runner.scripts.from_gguf.gguf_model import GgufFile

LONG, SHORT = "rope_factors_long.weight", "rope_factors_short.weight"


def phi3_config(source: GgufFile) -> dict[str, Any]:
    """As Phi3Config has it. A window of 0 says that there is none."""
    config = {
        "architectures": ["Phi3ForCausalLM"],
        "model_type": "phi3",
        **sizes(source, "phi3"),
        "hidden_act": "silu",
        **_rope(source),
        "original_max_position_embeddings": source.value(
            "phi3.rope.scaling.original_context_length", source.value("phi3.context_length")
        ),
        "sliding_window": source.value("phi3.attention.sliding_window", 0) or None,
        "attention_bias": False,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
    }
    width = config["hidden_size"] // config["num_attention_heads"]
    turned = source.value("phi3.rope.dimension_count", width)
    config["partial_rotary_factor"] = turned / width
    config["rope_parameters"]["partial_rotary_factor"] = turned / width
    return config


def _rope(source: GgufFile) -> dict[str, Any]:
    """The factors of long contexts stand in two tensors; without them there is no scaling."""
    if LONG not in source.tensors:
        return rope(source, "phi3")
    theta = source.value("phi3.rope.freq_base", 10000.0)
    return {
        "rope_theta": theta,
        "rope_parameters": {
            "rope_type": "longrope",
            "rope_theta": theta,
            "long_factor": _factors(source, LONG),
            "short_factor": _factors(source, SHORT),
        },
    }


def _factors(source: GgufFile, name: str) -> list[float]:
    """As the shortest decimals of the float32 numbers, which is what a config has."""
    return [float(str(value)) for value in source.rows(name, 0, 1).reshape(-1)]


PHI3 = Architecture(
    config=phi3_config,
    names=names(
        {
            "attn_norm": "input_layernorm",
            "attn_qkv": "self_attn.qkv_proj",
            "attn_output": "self_attn.o_proj",
            "ffn_norm": "post_attention_layernorm",
            "ffn_up": "mlp.gate_up_proj",
            "ffn_down": "mlp.down_proj",
        }
    ),
    ignored=frozenset({LONG, SHORT}),
)
