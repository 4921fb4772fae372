"""Read a LoRA adapter of PEFT: its pairs by the name of the weight they belong to.

What PEFT can write and this module does not understand is an error, never ignored.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from runner.scripts.floats import FLOATS, to_f64
from runner.scripts.lora_arithmetic import LoraPair
from runner.scripts.safetensors_stream import DamagedFileError, SafetensorsFile, TensorSpec
from runner.scripts.spec import ScriptError

_PREFIX = "base_model.model."
_A, _B = ".lora_A.weight", ".lora_B.weight"
# settings of adapter_config.json that change the arithmetic -> the value that is understood
_NEUTRAL: dict[str, Any] = {
    "use_dora": False,
    "fan_in_fan_out": False,
    "lora_bias": False,
    "rank_pattern": {},
    "alpha_pattern": {},
    "modules_to_save": None,
    "trainable_token_indices": None,
    "target_parameters": None,
    "layer_replication": None,
    "alora_invocation_tokens": None,
}


class Adapter:
    """`pairs`: weight name -> shapes of its two matrices. Raises ScriptError E340 to E342."""

    def __init__(self, folder: Path) -> None:
        self._scaling = read_scaling(folder / "adapter_config.json")
        try:
            self._file = SafetensorsFile(folder / "adapter_model.safetensors")
        except DamagedFileError as error:
            raise ScriptError(f"the adapter is damaged: {error}", code="E342") from error
        self.pairs = _pairs_of(self._file.specs)

    def pair(self, weight: str) -> LoraPair:
        """The matrices of `weight` as exact float64."""
        stem = _PREFIX + weight.removesuffix(".weight")
        matrices = [
            to_f64(self._file.read(stem + suffix), self._file.spec(stem + suffix).dtype)
            for suffix in (_A, _B)
        ]
        return LoraPair(*matrices, self._scaling)

    def close(self) -> None:
        """Release the file."""
        self._file.close()


def read_scaling(path: Path) -> float:
    """alpha / r, or alpha / sqrt(r) for rank-stabilised LoRA, as float64."""
    config = json.loads(path.read_text(encoding="utf-8"))
    for key, neutral in _NEUTRAL.items():
        value = config.get(key)
        if value and value != neutral:
            raise ScriptError(
                f"the adapter uses {key}, which the merge does not know",
                hint="train the adapter with plain LoRA",
                code="E340",
            )
    alpha, rank = float(config["lora_alpha"]), int(config["r"])
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


def _pairs_of(specs: list[TensorSpec]) -> dict[str, tuple[TensorSpec, TensorSpec]]:
    found = {spec.name: spec for spec in specs}
    pairs = {}
    for name in sorted(found):
        if not name.startswith(_PREFIX) or not name.endswith((_A, _B)):
            raise ScriptError(
                f"the adapter holds {name}, which the merge does not know",
                hint="train the adapter with plain LoRA",
                code="E340",
            )
        stem = name.removesuffix(_A).removesuffix(_B)
        a, b = found.get(stem + _A), found.get(stem + _B)
        if a is None or b is None or a.shape[0] != b.shape[-1]:
            raise ScriptError(f"the adapter has no whole pair for {stem}", code="E342")
        if len(a.shape) != 2 or len(b.shape) != 2 or {a.dtype, b.dtype} - {*FLOATS[1:]}:
            raise ScriptError(f"{stem} is no pair of matrices in 16 or 32 bits", code="E340")
        pairs[stem.removeprefix(_PREFIX) + ".weight"] = (a, b)
    return pairs
