"""Rules about the shape of a model that lies on this disk. Reads its config or its GGUF header.

A model in a wheel or on a hub is not looked at: that would need the network. What a run wrote then
says the same afterwards.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from runner.recipe.finding import Finding, listed
from runner.recipe.gguf_header import NotGgufError, read_matrices
from runner.recipe.model import Recipe
from runner.recipe.paths import is_readable_file

MAX_CONFIG_BYTES = 4 * 1024 * 1024
MAX_NAMED = 8  # tensors that a message names
# Which tensors have rows of which length, where a config says no more: as llama.cpp names them.
_HIDDEN = ("token_embd", "attn_q", "attn_k", "attn_v", "ffn_gate", "ffn_up")


def check_widths(recipe: Recipe) -> Iterator[Finding]:
    """K-quants and I-quants pack 256 values of a row; llama-quantize falls back in other rows."""
    from runner.stages.gguf_types import BLOCK, fallback

    if recipe.gguf is None or recipe.model is None:
        return
    lengths = row_lengths(recipe)
    for index, kind in enumerate(recipe.gguf.quantize):
        unfit: dict[str, dict[int, list[str]]] = {}
        for name, length in lengths.items():
            if instead := fallback(kind, length):
                unfit.setdefault(instead, {}).setdefault(length, []).append(name)
        if unfit:
            what = "; ".join(_in_words(instead, found) for instead, found in unfit.items())
            message = f"{kind} packs {BLOCK} values of a row, and {what}"
            hint = "choose Q8_0, or accept the fallback (docs/quantisation.md)"
            yield Finding("W213", f"/gguf/quantize/{index}", message, hint)


def _in_words(instead: str, found: Mapping[int, list[str]]) -> str:
    names = [name for some in found.values() for name in some]
    shown = names[:MAX_NAMED]
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    lengths = listed(sorted(found))
    return f"{', '.join(shown)}{more} (rows of {lengths}) become {instead} or wider"


def row_lengths(recipe: Recipe) -> dict[str, int]:
    """Tensor, or kind of tensor in every layer -> values in a row; empty when nothing is known."""
    if recipe.model.path is None:
        return {}
    folder = recipe.resolve(recipe.model.path)
    if recipe.model.file is None:
        return _of_config(folder / "config.json")
    return _of_gguf(folder / recipe.model.file)


def _of_config(path: Path) -> dict[str, int]:
    if not is_readable_file(path) or path.stat().st_size > MAX_CONFIG_BYTES:
        return {}
    try:
        config: Any = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return {}
    config = config.get("text_config", config) if isinstance(config, dict) else {}
    hidden, heads = _positive(config, "hidden_size"), _positive(config, "num_attention_heads")
    found = dict.fromkeys(_HIDDEN, hidden)
    head = _positive(config, "head_dim") or (hidden // heads if heads else 0)
    found["attn_output"] = heads * head
    found["ffn_down"] = _positive(config, "intermediate_size")
    return {name: length for name, length in found.items() if length}


def _positive(config: Mapping[str, Any], name: str) -> int:
    value = config.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _of_gguf(path: Path) -> dict[str, int]:
    if not is_readable_file(path):
        return {}
    try:
        matrices = read_matrices(path)
    except NotGgufError:
        return {}  # the stage that reads it says what is wrong
    found: dict[str, int] = {}
    for name, length in matrices.items():
        if name.endswith(".weight") and "_norm." not in name:
            plain = re.sub(r"^blk\.\d+\.", "", name).removesuffix(".weight")
            found.setdefault(plain, length)
    return found
