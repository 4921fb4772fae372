"""Rules about the shape of a model, by its GGUF header or by what model_facts knows of it.

Of another model nothing is said here: that would need the network. What a run wrote then says the
same afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from runner.recipe.finding import Finding, listed
from runner.recipe.gguf_header import NotGgufError, read_matrices
from runner.recipe.model import Recipe
from runner.recipe.model_facts import Facts

MAX_NAMED = 8  # tensors, and lengths of their rows, that a message names
MAX_LENGTH = 2**31  # values in a row, and whatever else a config counts
# Which tensors have rows of which length, where a config says no more: as llama.cpp names them.
_HIDDEN = ("token_embd", "attn_q", "attn_k", "attn_v", "ffn_gate", "ffn_up")


def check_widths(recipe: Recipe, facts: Facts | None) -> Iterator[Finding]:
    """K-quants and I-quants pack 256 values of a row; llama-quantize falls back in other rows."""
    from runner.stages.export.gguf_types import BLOCK, fallback

    if recipe.gguf is None or recipe.model is None:
        return
    lengths = row_lengths(recipe, facts)
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
    lengths = listed([*sorted(found)[:MAX_NAMED], *["others"] * (len(found) > MAX_NAMED)])
    return f"{', '.join(shown)}{more} (rows of {lengths}) become {instead} or wider"


def row_lengths(recipe: Recipe, facts: Facts | None) -> dict[str, int]:
    """Tensor, or kind of tensor in every layer -> values in a row; empty when nothing is known."""
    if recipe.model.path is not None and recipe.model.file is not None:
        return _of_gguf(recipe.resolve(recipe.model.path) / recipe.model.file)
    return {} if facts is None else _of_config(facts.config)


def _of_config(config: Mapping[str, Any]) -> dict[str, int]:
    hidden, heads = _positive(config, "hidden_size"), _positive(config, "num_attention_heads")
    lengths = dict.fromkeys(_HIDDEN, hidden)
    head = _positive(config, "head_dim") or (hidden // heads if heads else 0)
    lengths["attn_output"] = heads * head
    lengths["ffn_down"] = _positive(config, "intermediate_size")
    return {name: length for name, length in lengths.items() if length}


def _positive(config: Mapping[str, Any], name: str) -> int:
    value = config.get(name)
    return value if type(value) is int and 0 < value <= MAX_LENGTH else 0


def _of_gguf(path: Path) -> dict[str, int]:
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
