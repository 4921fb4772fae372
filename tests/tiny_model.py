"""A tiny Llama, made on the fly: random weights, a byte-level tokenizer, a ChatML template.

Small enough that every stage takes seconds, and complete enough that Transformers loads it.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 260,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-05,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
    "attention_bias": False,
    "mlp_bias": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
    "torch_dtype": "float32",
}


def write_tiny_model(folder: Path, seed: int = 7) -> Path:
    """Write the model folder and return it. The same seed gives the same bytes."""
    folder.mkdir(parents=True)
    save_file(_weights(np.random.default_rng(seed)), folder / "model.safetensors", {"format": "pt"})
    _write_json(folder / "config.json", CONFIG)
    _write_json(folder / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2})
    _write_json(folder / "tokenizer.json", _tokenizer())
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<|im_start|>",
            "eos_token": "<|im_end|>",
            "pad_token": "<|im_end|>",
            "unk_token": "<|endoftext|>",
            "clean_up_tokenization_spaces": False,
            "model_max_length": 512,
        },
    )
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


def _weights(random: np.random.Generator) -> dict[str, np.ndarray]:
    """float32 weights of the shapes that CONFIG says, as [out, in]."""
    wide, hidden, heads = CONFIG["hidden_size"], CONFIG["intermediate_size"], 16

    def linear(rows: int, columns: int) -> np.ndarray:
        return (random.standard_normal((rows, columns)) * 0.05).astype(np.float32)

    weights = {
        "model.embed_tokens.weight": linear(CONFIG["vocab_size"], wide),
        "model.norm.weight": np.ones(wide, np.float32),
    }
    for layer in range(CONFIG["num_hidden_layers"]):
        stem = f"model.layers.{layer}"
        weights |= {
            f"{stem}.input_layernorm.weight": np.ones(wide, np.float32),
            f"{stem}.post_attention_layernorm.weight": np.ones(wide, np.float32),
            f"{stem}.self_attn.q_proj.weight": linear(4 * heads, wide),
            f"{stem}.self_attn.k_proj.weight": linear(2 * heads, wide),
            f"{stem}.self_attn.v_proj.weight": linear(2 * heads, wide),
            f"{stem}.self_attn.o_proj.weight": linear(wide, 4 * heads),
            f"{stem}.mlp.gate_proj.weight": linear(hidden, wide),
            f"{stem}.mlp.up_proj.weight": linear(hidden, wide),
            f"{stem}.mlp.down_proj.weight": linear(wide, hidden),
        }
    return weights


def _tokenizer() -> dict[str, object]:
    """Byte-level BPE without merges: one token a byte, plus the special tokens."""
    vocab = {token: number for number, token in enumerate([*SPECIAL, *_byte_characters()])}
    vocab["<|unused|>"] = len(vocab)
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": False,
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": number,
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for number, token in enumerate(SPECIAL)
        ],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": vocab,
            "merges": [],
        },
    }


def _byte_characters() -> list[str]:
    """The visible stand-ins of the 256 bytes, in order of byte (GPT-2's byte-level alphabet)."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in visible]
    stand_in = {byte: chr(byte) for byte in visible}
    stand_in |= {byte: chr(256 + number) for number, byte in enumerate(hidden)}
    return [stand_in[byte] for byte in range(256)]


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
