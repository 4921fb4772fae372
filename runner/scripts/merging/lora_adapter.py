"""Read a LoRA adapter of PEFT: what it adds to which weight, and which weights it brings along.

Understood are LoRA and DoRA on linear layers, on Conv1D and on embeddings, with patterns of ranks
and scales, biases (`lora_bias`), and whole weights: those of `modules_to_save`, and embeddings that
were resized. What PEFT can write beside that is an error, never ignored.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runner.scripts.merging.lora_arithmetic import LoraPair
from runner.scripts.spec import ScriptError
from runner.scripts.weights.floats import FLOATS, Array, to_f64
from runner.scripts.weights.safetensors_stream import (
    DamagedFileError,
    SafetensorsFile,
    TensorSpec,
    row_blocks,
)

_PREFIX = "base_model.model."
# kind of layer -> the ends of the names of its two matrices
_MATRICES = {
    "linear": (".lora_A.weight", ".lora_B.weight"),
    "embedding": (".lora_embedding_A", ".lora_embedding_B"),
}
_MAGNITUDES = (".lora_magnitude_vector", ".lora_magnitude_vector.weight")
_BIAS = ".lora_B.bias"
_OWN = ".base_layer.weight"  # the weight below an adapter, saved because it was resized
INPUT_EMBEDDINGS = ("embed_tokens", "wte", "word_embeddings", "embed_in", "tok_embeddings")
OUTPUT_EMBEDDINGS = ("lm_head", "embed_out")
# settings of adapter_config.json that change the arithmetic -> the values that are understood;
# for all of them nothing, null and false are understood too
_UNDERSTOOD: dict[str, tuple[Any, ...]] = {
    "bias": ("none",),
    # others (pissa, olora, corda, loftq, ...) take something away from the base's weights
    "init_lora_weights": (True, "gaussian", "eva", "orthogonal"),
    "trainable_token_indices": (),
    "target_parameters": (),
    "layer_replication": (),
    "alora_invocation_tokens": (),
    "use_qalora": (),
    "use_bdlora": (),
    "velora_config": (),
    "arrow_config": (),
    "kasa_config": (),
    "monteclora_config": (),
}


@dataclass(frozen=True, slots=True)
class PairSpec:
    """The tensors of one adapted layer. `a` is [r, in] and `b` [out, r], as PEFT stores them."""

    kind: str  # linear or embedding
    a: TensorSpec
    b: TensorSpec
    magnitude: TensorSpec | None  # [out]: DoRA
    bias: TensorSpec | None  # [out]

    @property
    def outputs(self) -> int:
        """Length of what the layer gives."""
        return self.b.shape[0]

    @property
    def inputs(self) -> int:
        """Length of what it takes; of an embedding the vocabulary."""
        return self.a.shape[1]


@dataclass(frozen=True, slots=True)
class WholeWeight:
    """A weight or bias that replaces the base's.

    `own`: it is the base's own, resized, which the layers that are tied to it share; else it is the
    module's alone (`modules_to_save`).
    """

    spec: TensorSpec
    own: bool


class Adapter:
    """`pairs`: module -> its tensors. `whole`: name of a base's tensor -> what replaces it.

    Raises ScriptError E340 to E342.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = _read_config(folder / "adapter_config.json")
        try:
            self._file = SafetensorsFile(folder / "adapter_model.safetensors")
        except DamagedFileError as error:
            raise ScriptError(f"the adapter is damaged: {error}", code="E342") from error
        try:
            self.pairs, self.whole = _sort_out(self._file.specs, self.config)
        except BaseException:
            self._file.close()
            raise

    @property
    def ties(self) -> bool:
        """Was the adapter of tied embeddings trained as one (`ensure_weight_tying`)?"""
        return bool(self.config.get("ensure_weight_tying"))

    def scaling(self, module: str) -> float:
        """alpha / r, or alpha / sqrt(r) for rank-stabilised LoRA, as float64."""
        rank = self.pairs[module].a.shape[0]
        alpha = float(_by_pattern(self.config, "alpha_pattern", module, self.config["lora_alpha"]))
        return alpha / math.sqrt(rank) if self.config.get("use_rslora") else alpha / rank

    def pair(self, module: str, transposed: bool) -> LoraPair:
        """The matrices of `module` as exact float64, for a weight stored as [out, in].

        `transposed`: for one stored as [in, out] (Conv1D, embeddings).
        """
        found = self.pairs[module]
        a, b = self._exact(found.a), self._exact(found.b)
        if transposed:
            a, b = np.ascontiguousarray(b.T), np.ascontiguousarray(a.T)
        return LoraPair(a, b, self.scaling(module))

    def magnitude(self, module: str) -> Array | None:
        """DoRA's trained lengths, [out], as exact float64; None without DoRA."""
        spec = self.pairs[module].magnitude
        return None if spec is None else self._exact(spec).reshape(-1)

    def bias(self, module: str) -> Array:
        """The bias of the adapter, [out], times its scaling, as float64."""
        spec = self.pairs[module].bias
        assert spec is not None
        return self._exact(spec) * self.scaling(module)

    def whole_rows(self, name: str, first: int, last: int) -> Array:
        """Rows of a whole weight in its stored dtype."""
        return self._file.read(self.whole[name].spec.name, first, last)

    def same(self, name: str, other: str) -> bool:
        """Do two whole weights have the same bytes?"""
        one, two = self.whole[name].spec, self.whole[other].spec
        if (one.dtype, one.shape) != (two.dtype, two.shape):
            return False
        return all(
            np.array_equal(
                self.whole_rows(name, *rows).view(np.uint8),
                self.whole_rows(other, *rows).view(np.uint8),
            )
            for rows in row_blocks(one, 16 << 20)
        )

    def close(self) -> None:
        """Release the file."""
        self._file.close()

    def _exact(self, spec: TensorSpec) -> Array:
        return to_f64(self._file.read(spec.name), spec.dtype)


def _read_config(path: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if config.get("peft_type", "LORA") != "LORA":
        raise ScriptError(
            f"the adapter is of the kind {config['peft_type']}, which the merge does not know",
            hint="train the adapter with train.adapter.type: lora",
            code="E340",
        )
    for key, understood in _UNDERSTOOD.items():
        value = config.get(key)
        if value and value not in understood:
            raise ScriptError(
                f"the adapter uses {key}: {value}, which the merge does not know",
                hint="train the adapter without it",
                code="E340",
            )
    return config


def _by_pattern(config: dict[str, Any], patterns: str, module: str, default: Any) -> Any:
    """The first pattern that fits the end of the module's name decides, as in PEFT."""
    for pattern, value in (config.get(patterns) or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def _sort_out(
    specs: list[TensorSpec], config: dict[str, Any]
) -> tuple[dict[str, PairSpec], dict[str, WholeWeight]]:
    """Every tensor of the file belongs to a pair or is a whole weight."""
    left = {spec.name: spec for spec in specs}
    pairs = {}
    for module, kind in sorted(_adapted(left)):
        pairs[module] = _take_pair(left, module, kind, config)
    return pairs, dict(_whole_weight(spec, config) for spec in left.values())


def _adapted(names: Iterable[str]) -> set[tuple[str, str]]:
    """The modules with at least one matrix, and the kind of layer."""
    return {
        (name.removeprefix(_PREFIX).removesuffix(end), kind)
        for name in names
        for kind, ends in _MATRICES.items()
        for end in ends
        if name.startswith(_PREFIX) and name.endswith(end)
    }


def _take_pair(
    left: dict[str, TensorSpec], module: str, kind: str, config: dict[str, Any]
) -> PairSpec:
    """Remove from `left` what belongs to the module."""
    stem = _PREFIX + module
    a, b = (left.pop(stem + end, None) for end in _MATRICES[kind])
    if a is None or b is None or a.shape[0] != b.shape[-1]:
        raise ScriptError(f"the adapter has no whole pair for {module}", code="E342")
    if len(a.shape) != 2 or len(b.shape) != 2 or {a.dtype, b.dtype} - {*FLOATS[1:]}:
        raise ScriptError(f"{module} is no pair of matrices in 16 or 32 bits", code="E340")
    rank = _by_pattern(config, "rank_pattern", module, config["r"])
    if a.shape[0] != rank:
        raise ScriptError(
            f"{module} has rank {a.shape[0]}, and adapter_config.json says {rank}", code="E342"
        )
    found = [left.pop(stem + end) for end in _MAGNITUDES if stem + end in left]
    if len(found) != int(bool(config.get("use_dora"))):
        raise ScriptError(
            f"{module} has {len(found)} magnitude vectors, and use_dora is"
            f" {json.dumps(bool(config.get('use_dora')))}",
            code="E342",
        )
    bias = left.pop(stem + _BIAS, None)
    for vector in (*found, *([bias] if bias else [])):
        if math.prod(vector.shape) != b.shape[0] or vector.dtype not in FLOATS:
            raise ScriptError(f"the adapter's {vector.name} has a wrong shape", code="E342")
    return PairSpec(kind, a, b, found[0] if found else None, bias)


def _whole_weight(spec: TensorSpec, config: dict[str, Any]) -> tuple[str, WholeWeight]:
    name = spec.name.removeprefix(_PREFIX)
    below_adapter = name.endswith(_OWN)
    name = name.removesuffix(_OWN) + ".weight" if below_adapter else name
    module = name.rpartition(".")[0]
    saved = any(_lies_in(module, each) for each in config.get("modules_to_save") or ())
    resized = module.rpartition(".")[2] in (*INPUT_EMBEDDINGS, *OUTPUT_EMBEDDINGS)
    known = spec.name.startswith(_PREFIX) and ".lora_" not in name
    if not known or not (saved or resized) or spec.dtype not in FLOATS:
        raise ScriptError(
            f"the adapter holds {spec.name}, which the merge does not know",
            hint="train the adapter with train.adapter.type: lora",
            code="E340",
        )
    return name, WholeWeight(spec, own=below_adapter or not saved)


def _lies_in(module: str, saved: str) -> bool:
    """Is `module` one that `modules_to_save` names by its end, or below one?"""
    parts = module.split(".")
    return any(".".join(parts[:count]).endswith(saved) for count in range(1, len(parts) + 1))
