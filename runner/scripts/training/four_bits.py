"""Load a base model with its linear layers in 4 bits (`model.quantization`), for QLoRA.

Choices that frameworks leave to themselves, so that training and evaluation see one and the same
base, on every processor:

- The output layer and the embeddings stay in `model.dtype`, as Transformers leaves them. PEFT's
  `prepare_model_for_kbit_training` would widen them, and the norms, to float32: for a 70B 4 GB more
  in memory, and a base that the evaluation does not have. Norms compute in float32 anyway.
- bitsandbytes has a second product for processors with AVX512-BF16, used without gradients alone,
  which rounds the scales to bfloat16: another base than the trained one. It is switched off.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from transformers import BitsAndBytesConfig
from transformers.pytorch_utils import Conv1D

from runner.scripts.spec import ScriptError


def loading(settings: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """What `from_pretrained` is told beside the rest; nothing without quantisation.

    Weights are quantised one by one as they are read, on `device`: the 16-bit model is never whole
    in memory.
    """
    wanted = settings.get("quantization")
    if wanted is None:
        return {}
    values = wanted | {"bnb_4bit_compute_dtype": getattr(torch, wanted["bnb_4bit_compute_dtype"])}
    place = "cpu" if device.type == "cpu" else torch.cuda.current_device()
    return {"quantization_config": BitsAndBytesConfig(**values), "device_map": {"": place}}


def settle(model: Any) -> None:
    """Leave every 4-bit layer one way to compute."""
    for layer in quantized_modules(model):
        layer.support_avx512bf16_for_cpu = False


def quantized_modules(model: Any) -> list[Any]:
    """The layers of `model` whose weights are 4-bit values."""
    return [module for module in model.modules() if is_quantized(module)]


def is_quantized(module: Any) -> bool:
    """Is `module` a layer whose weights are 4-bit values?"""
    from bitsandbytes.nn import Linear4bit  # takes a second: only for those who need it

    return isinstance(module, Linear4bit)


def check_saved(skeleton: Any, saved: Iterable[str]) -> None:
    """No module that is trained as a whole is one of 4-bit values. Raises ScriptError E520.

    `skeleton`: the model without weights. `saved`: whole names of modules.
    """
    head = skeleton.get_output_embeddings()
    for name in saved:
        for inner, module in skeleton.get_submodule(name).named_modules(prefix=name):
            held = isinstance(module, Conv1D) or type(module) is torch.nn.Linear
            if held and module is not head:
                raise ScriptError(
                    f"modules_to_save: {inner} is held in 4 bits, which cannot be trained",
                    hint="give it an adapter (target_modules), or remove model.quantization",
                    code="E520",
                )
