"""Merge an adapter into sharded bfloat16 models of growing depth, beside PEFT.

usage: .venv/bin/python -m benchmarks.merge [RUNS] [LAYERS ...] [--dora]

The models are made on the spot: random weights, Llama's shapes (width 2048, 8192 between), rank 8
on all linear layers; 16 layers are about a billion weights. Whole processes are measured, from the
start to the last byte on the disk. After the tables of each depth comes the curve over all.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from benchmarks.timing import Command, Timing, table, time_side_by_side
from runner.execution.context import SCRIPTS
from runner.scripts.weights.floats import f32_to_bf16
from runner.scripts.weights.safetensors_stream import TensorSpec, open_shards, row_blocks
from runner.system import determinism, environments
from runner.system.folders import cache_folder
from tests.lora_files import write_adapter

WIDTH, BETWEEN, KEYS, VOCABULARY = 2048, 8192, 512, 32_000
LINEAR = {
    "self_attn.q_proj": (WIDTH, WIDTH),
    "self_attn.k_proj": (KEYS, WIDTH),
    "self_attn.v_proj": (KEYS, WIDTH),
    "self_attn.o_proj": (WIDTH, WIDTH),
    "mlp.gate_proj": (BETWEEN, WIDTH),
    "mlp.up_proj": (BETWEEN, WIDTH),
    "mlp.down_proj": (WIDTH, BETWEEN),
}
NORMS = ("input_layernorm", "post_attention_layernorm")
PEFT = """
import os, sys
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
torch.set_num_threads(int(sys.argv[4]))
base = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.bfloat16)
merged = PeftModel.from_pretrained(base, sys.argv[2]).merge_and_unload()
merged.save_pretrained(sys.argv[3], max_shard_size="500MB")
for entry in os.scandir(sys.argv[3]):
    descriptor = os.open(entry.path, os.O_RDONLY)
    os.fsync(descriptor)
"""


def main(runs: int, depths: list[int], dora: bool) -> None:
    """Print a table for each depth, and the curve."""
    curve = [
        "| layers | 10^9 weights | ours s | PEFT s | ours MB | PEFT MB |",
        "|--:|--:|--:|--:|--:|--:|",
    ]
    for layers in depths:
        size, timings = measure(runs, layers, dora)
        print(f"{size / 1e9:.2f} billion weights, {layers} layers, {runs} runs each\n")
        print(table(timings) + "\n", flush=True)
        seconds = " | ".join(f"{each.median:.1f}" for each in timings)
        memory = " | ".join(f"{each.peak / 1e6:.0f}" for each in timings)
        curve.append(f"| {layers} | {size / 1e9:.2f} | {seconds} | {memory} |")
    print("\n".join(curve))


def measure(runs: int, layers: int, dora: bool) -> tuple[int, list[Timing]]:
    """Number of weights, and the timings of ours and of PEFT's merge."""
    with tempfile.TemporaryDirectory(prefix="merge-") as name:
        place = Path(name)
        model = write_model(place / "base", layers)
        modules = {
            f"model.layers.{n}.{part}": LINEAR[part] for n in range(layers) for part in LINEAR
        }
        adapter = write_adapter(place / "adapter", modules)
        if dora:
            add_magnitudes(adapter, modules)
        commands = [ours(place, model, adapter), peft(place, model, adapter)]
        return weights(model), time_side_by_side(commands, runs)


def add_magnitudes(adapter: Path, modules: dict[str, tuple[int, int]]) -> None:
    """Make it an adapter of DoRA."""
    path, config = adapter / "adapter_model.safetensors", adapter / "adapter_config.json"
    vectors = {
        f"base_model.model.{name}.lora_magnitude_vector": np.ones(rows, np.float32)
        for name, (rows, _) in modules.items()
    }
    save_file({**load_file(path), **vectors}, path)
    config.write_text(json.dumps(json.loads(config.read_text()) | {"use_dora": True}))


def ours(place: Path, model: Path, adapter: Path) -> Command:
    """The merge script as the stage runs it."""
    out = place / "ours"
    out.mkdir()
    where = {
        "inputs": {
            "model": str(model),
            "adapter": str(adapter),
            "template": str(model / "chat_template.jinja"),
        },
        "folder": str(out),
        "scratch": str(place),
        "events": str(place / "events.jsonl"),
    }
    spec = place / "spec.json"
    spec.write_text(json.dumps({"stage": "merge", "hashed": {"dtype": "bfloat16"}, "where": where}))
    python = environments.ensure("export", cache_folder(), print).python
    return Command(
        "recipe's merge", [str(python), str(SCRIPTS), "merge", str(spec)], determinism.script_env(2)
    )


def peft(place: Path, model: Path, adapter: Path) -> Command:
    """PEFT's merge_and_unload and save_pretrained, files on the disk like ours."""
    python = environments.ensure("native", cache_folder(), print).python
    argv = [str(python), "-c", PEFT, str(model), str(adapter), str(place / "peft"), "2"]
    return Command("PEFT merge_and_unload + save_pretrained", argv)


def write_model(folder: Path, layers: int, vocabulary: int = VOCABULARY) -> Path:
    """A Llama of `layers` layers in shards of 500 MB."""
    folder.mkdir()
    specs = [TensorSpec("model.embed_tokens.weight", "BF16", (vocabulary, WIDTH))]
    for layer in range(layers):
        stem = f"model.layers.{layer}"
        specs += [TensorSpec(f"{stem}.{part}.weight", "BF16", LINEAR[part]) for part in LINEAR]
        specs += [TensorSpec(f"{stem}.{part}.weight", "BF16", (WIDTH,)) for part in NORMS]
    specs.append(TensorSpec("model.norm.weight", "BF16", (WIDTH,)))
    generator = np.random.default_rng(0)
    with open_shards(folder, specs, max_bytes=500_000_000) as writer:
        for spec in specs:
            for first, last in row_blocks(spec, 8 << 20):
                values = generator.standard_normal((last - first, *spec.shape[1:]), np.float32)
                writer.write(spec.name, f32_to_bf16(values * np.float32(0.02)))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocabulary,
        "hidden_size": WIDTH,
        "intermediate_size": BETWEEN,
        "num_hidden_layers": layers,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
        "max_position_embeddings": 2048,
        "dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").write_text("")
    return folder


def weights(model: Path) -> int:
    """Number of weights, from the size of the files."""
    return sum(path.stat().st_size for path in model.glob("*.safetensors")) // 2


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[1:] if argument != "--dora"]
    main(numbers[0] if numbers else 3, numbers[1:] or [4, 8, 16], "--dora" in sys.argv)
