"""Model folders of any size that take no time and hardly any disk: holes, and a few random rows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from runner.scripts.weights.floats import f32_to_bf16
from runner.scripts.weights.safetensors_stream import INDEX, SINGLE, TensorSpec, plan_shards

# Llama 3 70B: hidden 8192, intermediate 28672, 64 heads of 128 and 8 of keys, vocabulary 128256
HIDDEN, BETWEEN, KEYS, VOCABULARY = 8192, 28_672, 1024, 128_256
LAYER_70B = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (KEYS, HIDDEN),
    "self_attn.v_proj": (KEYS, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (BETWEEN, HIDDEN),
    "mlp.up_proj": (BETWEEN, HIDDEN),
    "mlp.down_proj": (HIDDEN, BETWEEN),
}
NORMS = ("input_layernorm", "post_attention_layernorm")


def llama_70b(layers: int) -> dict[str, tuple[int, ...]]:
    """Name of a weight -> shape, for the first `layers` layers and both embeddings."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN)}
    for layer in range(layers):
        stem = f"model.layers.{layer}"
        shapes |= {f"{stem}.{part}.weight": shape for part, shape in LAYER_70B.items()}
        shapes |= {f"{stem}.{part}.weight": (HIDDEN,) for part in NORMS}
    return shapes | {"model.norm.weight": (HIDDEN,), "lm_head.weight": (VOCABULARY, HIDDEN)}


def write_sparse_model(
    folder: Path, shapes: Mapping[str, tuple[int, ...]], shard_bytes: int = 5_000_000_000
) -> Path:
    """bfloat16 zeros, but for the first and the last row of every tensor, which are random."""
    folder.mkdir(parents=True)
    specs = [TensorSpec(name, "BF16", shape) for name, shape in shapes.items()]
    shards = plan_shards(specs, shard_bytes)
    random = np.random.default_rng(11)
    names = {}
    for number, shard in enumerate(shards, 1):
        file = (
            SINGLE if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        )
        names |= {spec.name: file for spec in shard}
        _write_shard(folder / file, sorted(shard, key=lambda spec: spec.name), random)
    if len(shards) > 1:
        (folder / INDEX).write_text(json.dumps({"weight_map": names}))
    (folder / "config.json").write_text('{"model_type": "llama", "tie_word_embeddings": false}')
    (folder / "chat_template.jinja").write_text("")
    return folder


def _write_shard(path: Path, specs: list[TensorSpec], random: np.random.Generator) -> None:
    header, offset = {}, 0
    for spec in specs:
        place = [offset, offset + spec.nbytes]
        header[spec.name] = {"dtype": spec.dtype, "shape": spec.shape, "data_offsets": place}
        offset = place[1]
    text = json.dumps(header).encode()
    start = 8 + len(text)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for spec in specs:
            begin, end = header[spec.name]["data_offsets"]
            for place in (begin, end - spec.row_bytes):
                row = random.standard_normal(spec.row_bytes // 2, np.float32) * np.float32(0.02)
                file.seek(start + place)
                file.write(f32_to_bf16(row).tobytes())
        file.truncate(start + offset)
