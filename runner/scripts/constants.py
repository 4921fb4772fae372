"""What a base in 4 bits is rebuilt from beside its 16-bit weights: scales, digests of the codes.

The model is loaded as it is trained, on the device that trains; what bitsandbytes holds is written.
spec.hashed: quantization, dtype, attn_implementation, trust_remote_code. spec.inputs: model (folder
of `fetch`). Writes `constants.safetensors`, a module's scales [blocks] as float32 after double
quantisation, and `constants.json`.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import torch
from transformers.pytorch_utils import Conv1D

from runner.scripts.evaluate import load_model
from runner.scripts.merging.four_bits import BLOCK, FORMAT, SCALES, compute_dtype, digest_of
from runner.scripts.spec import Events, ScriptError, Spec, main
from runner.scripts.training.four_bits import is_quantized
from runner.scripts.training.torch_setup import check_still_set_up, peak_memory, set_up_torch
from runner.scripts.weights.safetensors_stream import SafetensorsWriter, TensorSpec

_AT_ONCE = 1 << 24  # bytes of codes that are looked at at a time


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
    modules = {}
    with SafetensorsWriter(spec.folder / SCALES, specs) as out:
        for number, (name, module) in enumerate(held.items(), 1):
            out.write(name, scales_of(module.weight.quant_state))
            modules[name] = {
                "codes": codes_of(module.weight, settings["quantization"]["bnb_4bit_quant_type"]),
                "transposed": isinstance(getattr(module, "source_cls", None), type)
                and issubclass(module.source_cls, Conv1D),
            }
            events.progress(number, len(held), message=name)
    check_still_set_up()
    said = {
        "quant_type": settings["quantization"]["bnb_4bit_quant_type"],
        "dtype": compute_dtype(settings["dtype"]),
        "compute_dtype": compute_dtype(settings["quantization"]["bnb_4bit_compute_dtype"]),
        "modules": dict(sorted(modules.items())),
    }
    text = json.dumps(said, indent=2, sort_keys=True)
    (spec.folder / FORMAT).write_text(text + "\n", encoding="utf-8")
    events.measure(modules_in_4_bits=len(held), peak_memory=peak_memory(device))


def scales_of(state: Any) -> np.ndarray[Any, Any]:
    """What each block's values are multiplied by, [blocks] float32."""
    from bitsandbytes.functional import dequantize_blockwise

    scales = state.absmax
    if state.nested:
        scales = dequantize_blockwise(state.absmax, state.state2) + state.offset
    found: np.ndarray[Any, Any] = scales.float().cpu().numpy()
    return found


def codes_of(weight: Any, kind: str) -> str:
    """Sha256 of the codes; of FP4's two codes of zero as the first of them."""
    packed = weight.data.reshape(-1).view(torch.uint8)
    count = weight.quant_state.shape.numel()
    seen = hashlib.sha256()
    for first in range(0, len(packed), _AT_ONCE):
        part = packed[first : first + _AT_ONCE].cpu().numpy()
        codes = np.stack([part >> 4, part & np.uint8(15)], axis=1).reshape(-1)
        if kind == "fp4":
            codes = np.where(codes == 8, np.uint8(0), codes)
        seen.update(digest_of(codes[: count - 2 * first]))
    return seen.hexdigest()


if __name__ == "__main__":
    main(write_constants)
