"""What a base in 4 bits is rebuilt from beside its 16-bit weights: scales, and digests.

The model is loaded as it is trained, on the device that trains; what bitsandbytes holds is written.
spec.hashed: quantization, dtype, attn_implementation, trust_remote_code. spec.inputs: model (folder
of `fetch`). Writes `constants.safetensors`, a module's scales [blocks] as float32 after double
quantisation, and `constants.json`.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from transformers.pytorch_utils import Conv1D

from runner.scripts.evaluate import load_model
from runner.scripts.merging.four_bits import BLOCK, FORMAT, SCALES, compute_dtype
from runner.scripts.spec import Events, ScriptError, Spec, main
from runner.scripts.training.four_bits import is_quantized
from runner.scripts.training.torch_setup import check_still_set_up, peak_memory, set_up_torch
from runner.scripts.weights.safetensors_stream import SafetensorsWriter, TensorSpec


def write_constants(spec: Spec, events: Events) -> None:
    """Write spec.folder. Raises ScriptError E889."""
    device = set_up_torch()
    settings = spec.hashed
    model = load_model(spec.inputs["model"], settings, device)
    held = {name: module for name, module in model.named_modules() if is_quantized(module)}
    if not held:
        raise ScriptError(
            "no layer of this model is held in 4 bits",
            hint="write merge: {base: original}, or remove model.quantization",
            code="E889",
        )
    specs = [
        TensorSpec(name, "F32", (-(-module.weight.quant_state.shape.numel() // BLOCK),))
        for name, module in held.items()
    ]
    computed = settings["quantization"]["bnb_4bit_compute_dtype"]
    modules = {}
    with SafetensorsWriter(spec.folder / SCALES, specs) as out:
        for number, (name, module) in enumerate(held.items(), 1):
            scales = scales_of(module.weight.quant_state)
            out.write(name, scales.cpu().numpy())
            modules[name] = {
                "values": values_of(module.weight, scales, computed),
                "transposed": isinstance(getattr(module, "source_cls", None), type)
                and issubclass(module.source_cls, Conv1D),
            }
            events.progress(number, len(held), message=name)
    check_still_set_up()
    said = {
        "quant_type": settings["quantization"]["bnb_4bit_quant_type"],
        "dtype": compute_dtype(settings["dtype"]),
        "compute_dtype": compute_dtype(computed),
        "modules": dict(sorted(modules.items())),
    }
    text = json.dumps(said, indent=2, sort_keys=True)
    (spec.folder / FORMAT).write_text(text + "\n", encoding="utf-8")
    events.measure(modules_in_4_bits=len(held), peak_memory=peak_memory(device))


def scales_of(state: Any) -> torch.Tensor:
    """What each block's values are multiplied by, [blocks] float32, where the weight lies."""
    from bitsandbytes.functional import dequantize_blockwise

    scales = state.absmax
    if state.nested:
        scales = dequantize_blockwise(state.absmax, state.state2) + state.offset
    return torch.as_tensor(scales).float()


def values_of(weight: Any, scales: torch.Tensor, dtype: str) -> str:
    """Sha256 of the weights that the layer computes with, in `dtype`; -0 counts as 0."""
    state = weight.quant_state
    made = torch.ops.bitsandbytes.dequantize_4bit.default(
        *(weight.data, scales, state.blocksize, state.quant_type),
        *(state.shape, getattr(torch, dtype)),
    )
    stored = (made + 0).cpu().contiguous().view(torch.uint8).numpy()
    return hashlib.sha256(stored.data).hexdigest()


if __name__ == "__main__":
    main(write_constants)
