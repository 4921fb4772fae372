"""What an architecture says of itself, and what the configs of all of them have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from runner.scripts.spec import ScriptError

if TYPE_CHECKING:
    from runner.scripts.from_gguf.gguf_model import GgufFile


@dataclass(frozen=True)
class Architecture:
    """How one GGUF architecture maps to Hugging Face.

    `names`: GGUF tensor name -> Hugging Face name, `{n}` being the layer. `heads`: for tensors
    whose rows the converter permuted for its rope, the metadata key of their number of heads.
    `ignored`: tensors that the config speaks for. `norm_shift`: what the converter added to norms.
    """

    config: Callable[[GgufFile], dict[str, Any]]
    names: dict[str, str]
    heads: dict[str, str] = field(default_factory=dict)
    ignored: frozenset[str] = frozenset()
    norm_shift: float = 0.0


OUTER = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
ATTENTION = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
}
QK_NORM = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
MLP = {"ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}


def names(layer: Mapping[str, str]) -> dict[str, str]:
    """Weights and biases of every layer, and the tensors outside of the layers."""
    return OUTER | {
        f"blk.{{n}}.{ours}.{kind}": f"model.layers.{{n}}.{theirs}.{kind}"
        for ours, theirs in layer.items()
        for kind in ("weight", "bias")
    }


def not_understood(source: GgufFile, what: str) -> ScriptError:
    """The error E314."""
    return ScriptError(
        f"{source.path.name} {what}, which is not understood",
        hint="start from the model's safetensors instead",
        code="E314",
    )


def sizes(source: GgufFile, name: str) -> dict[str, Any]:
    """What every decoder's config has, read from the metadata under `name`."""
    heads = source.value(f"{name}.attention.head_count")
    hidden = source.value(f"{name}.embedding_length")
    if not isinstance(heads, int):
        raise ScriptError(f"{source.path.name} has another number of heads per layer", code="E314")
    return {
        "vocab_size": int(source.tensors["token_embd.weight"].shape[1]),
        "hidden_size": hidden,
        "intermediate_size": source.value(f"{name}.feed_forward_length"),
        "num_hidden_layers": source.value(f"{name}.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": source.value(f"{name}.attention.head_count_kv", heads),
        "max_position_embeddings": source.value(f"{name}.context_length"),
        "rms_norm_eps": source.value(f"{name}.attention.layer_norm_rms_epsilon"),
        "tie_word_embeddings": "output.weight" not in source.tensors,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "use_cache": True,
    }


def head_dim(source: GgufFile, name: str) -> int:
    """Width of a head; llama.cpp's default where the file says nothing."""
    split = source.value(f"{name}.embedding_length") // source.value(f"{name}.attention.head_count")
    return int(source.value(f"{name}.attention.key_length", split))


def rope(source: GgufFile, name: str) -> dict[str, Any]:
    """`rope_theta`, read by transformers 4, and `rope_parameters`, read by 5.

    Raises ScriptError E314 for a scaling that is not understood.
    """
    theta = source.value(f"{name}.rope.freq_base", 10000.0)
    return {
        "rope_theta": theta,
        "rope_parameters": {**scaling(source, name), "rope_theta": theta},
    }


def scaling(source: GgufFile, name: str) -> dict[str, Any]:
    """The scaling that the metadata states; what stands in tensors is not part of it."""
    kind = source.value(f"{name}.rope.scaling.type", "none")
    if kind == "none":
        return {"rope_type": "default"}
    factor = source.value(f"{name}.rope.scaling.factor", None)
    if kind == "linear" and factor:
        return {"rope_type": "linear", "factor": factor}
    length = source.value(f"{name}.rope.scaling.original_context_length", None)
    if kind == "yarn" and factor and length:
        found = {
            theirs: source.value(f"{name}.rope.scaling.{ours}", None)
            for theirs, ours in (
                ("attention_factor", "yarn_attn_factor"),
                ("beta_fast", "yarn_beta_fast"),
                ("beta_slow", "yarn_beta_slow"),
            )
        }
        given = {key: value for key, value in found.items() if value is not None}
        yarn = {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": length}
        return yarn | given
    raise not_understood(source, f"uses the rope scaling {kind!r}")
