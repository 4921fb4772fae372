"""Our 4 bits against bitsandbytes' own. Run by an environment that has it.

usage: PYTHON tests/bitsandbytes_reference.py numbers
       PYTHON tests/bitsandbytes_reference.py make PLACE
       PYTHON tests/bitsandbytes_reference.py layers PLACE SETTINGS.json

`numbers` quantises tensors of every kind and says what differs. `make` writes PLACE/gpt2 and
PLACE/llama. `layers` says of both, for every kind of settings (kind -> settings), how many of the
numbers that each layer computes with are not those that are rebuilt.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from bitsandbytes.functional import dequantize_blockwise, quantize_4bit
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from runner.scripts.constants import write_constants
from runner.scripts.merging.four_bits import Constants, Values, largest, scaled
from runner.scripts.spec import Events, Spec
from runner.scripts.training.base_model import read_model
from runner.scripts.weights.floats import from_f32, to_f32
from runner.scripts.weights.safetensors_stream import ModelFolder

DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
# Blocks that end in rows, short last blocks, an odd number of numbers, more than 256 blocks.
SHAPES = [(64, 64), (3, 64), (7, 100), (5, 33), (1, 10), (300, 257), (16384, 2)]
SMALL = {"hidden_size": 64, "intermediate_size": 100, "num_hidden_layers": 2, "vocab_size": 260}


def tensors():
    """Name -> float32 tensor."""
    random = torch.Generator().manual_seed(1)
    for shape in SHAPES:
        plain = 0.02 * torch.randn(shape, generator=random)
        outlier, sparse = plain.clone(), plain.clone()
        outlier[0, 0], outlier[-1, -1] = 300.0, -5e-5
        sparse.reshape(-1)[64:192] = 0.0
        kinds = {
            "random": plain,
            "zeros": torch.zeros(shape),
            "outlier": outlier,
            "blocks of zeros": sparse,
            "steps": torch.round(200 * plain) / 256,  # many equal ones, and ties
            "negative": -plain.abs(),
            "tiny": 1e-6 * plain,
        }
        yield from ((f"{name} {list(shape)}", values) for name, values in kinds.items())


def numbers():
    """Every kind of 4 bits, and of number it is made from and computed in."""
    found = {"checked": 0, "wrong": []}
    for name, values in tensors():
        for kind in ("nf4", "fp4"):
            for dtype in DTYPES.values():
                for nested in (False, True):
                    found["wrong"] += [
                        f"{name} {kind} {dtype} {nested}: {what}"
                        for what in differences(values.to(dtype), kind, nested)
                    ]
                    found["checked"] += 1
    return found


def differences(weight, kind, nested):
    """What is not equal, of one tensor."""
    packed, state = quantize_4bit(weight, compress_statistics=nested, quant_type=kind)
    scales = state.absmax
    if nested:
        scales = dequantize_blockwise(state.absmax, state.state2) + state.offset
    ours = weight.float().numpy().reshape(-1)
    if not nested and not np.array_equal(largest(ours), scales.numpy()):
        yield "scales"
    codes, values = Values(kind).nearest(scaled(ours))
    pairs = packed.reshape(-1).numpy()
    theirs = np.stack([pairs >> 4, pairs & 15], axis=1).reshape(-1)[: len(ours)]
    if kind == "fp4":  # two codes of zero
        theirs = np.where(theirs == 8, 0, theirs)
    if not np.array_equal(codes, theirs):
        yield "codes"
    product = values * np.repeat(scales.numpy(), 64)[: len(ours)]
    for name, dtype in DTYPES.items():
        made = torch.ops.bitsandbytes.dequantize_4bit.default(
            packed, scales, 64, kind, weight.shape, dtype
        )
        rounded = to_f32(from_f32(product, name), name)
        if not np.array_equal(made.float().numpy().reshape(-1), rounded):
            yield f"values in {name}"


def make(place):
    """Layers whose blocks cross rows, and layers that are stored turned."""
    torch.manual_seed(3)
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
    llama = LlamaConfig(**SMALL, **heads)
    gpt2 = GPT2Config(n_embd=64, n_layer=2, n_head=4, vocab_size=260, n_positions=64)
    for name, config in {"llama": llama, "gpt2": gpt2}.items():
        AutoModelForCausalLM.from_config(config).save_pretrained(Path(place) / name)


def constants_of(model, settings, place):
    """What the script `constants` writes of it, in this process."""
    folder = Path(place)
    folder.mkdir()
    spec = Spec(settings, {"model": model}, folder, folder, folder.with_suffix(".jsonl"))
    write_constants(spec, Events(spec.events, "constants"))
    return folder


def layers(place, settings):
    """Each layer is asked what it makes of the unit vectors: its weights, not rounded again."""
    found = {}
    for name in ("llama", "gpt2"):
        model = Path(place) / name
        for kind, values in json.loads(Path(settings).read_text()).items():
            folders = [
                constants_of(model, values, f"{place}/{name}-{kind}-{number}") for number in (0, 1)
            ]
            bytes_of = [
                [path.read_bytes() for path in sorted(folder.iterdir())] for folder in folders
            ]
            found[f"{name} {kind}"] = {
                "differing": differing(model, folders[0], values),
                "repeated": bytes_of[0] == bytes_of[1],
            }
    return found


def differing(model, constants, settings):
    """Name of a weight -> how many of its numbers are not those that the layer computes with."""
    loaded = read_model(model, settings, torch.device("cpu")).eval()
    ours = Constants(constants)
    modules = dict(loaded.named_modules())
    found = {}
    with ModelFolder(model) as folder, torch.inference_mode():
        for name, held in ours.by_tensor(folder.tensors).items():
            spec, layer = folder.tensors[name], modules[held.module]
            layer.bias = None
            computed = layer(torch.eye(layer.in_features, dtype=DTYPES[ours.dtype])).float().numpy()
            reader = lambda first, last, name=name: folder.read(name, first, last)  # noqa: E731
            parts = [rows for _, _, rows in ours.weights(held, spec, reader, 1 << 12)]
            rebuilt = to_f32(np.concatenate(parts), ours.dtype)
            theirs = computed if held.transposed else computed.T
            found[name] = int((rebuilt != theirs).sum())
    return found


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](*sys.argv[2:])))
