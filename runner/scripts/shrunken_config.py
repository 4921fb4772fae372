"""A Hugging Face config with small widths and depth, and everything else as it was. Pure.

Kept: the architecture, tied or untied embeddings, the ratio of query to key-value heads, norms,
activation, soft caps, the kinds of layers and their order, rope and its scaling with all lengths.
Changed: WIDTHS, the number of layers and heads, and what must fit them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from runner.scripts.spec import ScriptError

# Everything that is a row's length is a multiple of a K-quant's block.
BLOCK = 256
INTERMEDIATE = 512
WINDOW = 128  # tokens: shorter than the rows of a shrunken training, so that it bites
LAYERS = 2
MOST_LAYERS = 8
MOST_HIDDEN = 4 * BLOCK

# Those whose config says how wide a head is; for the others it is hidden_size / heads.
OWN_HEAD_DIM = frozenset({"llama", "mistral", "qwen3", "gemma2", "gemma3_text"})
FAMILIES = OWN_HEAD_DIM | {"qwen2", "phi3"}


def check_family(config: dict[str, Any]) -> None:
    """Raises ScriptError E330 for an architecture that is not in FAMILIES."""
    family = config.get("model_type")
    if family not in FAMILIES:
        raise ScriptError(
            f"a model of the type {family!r} cannot be shrunk",
            hint=f"known: {', '.join(sorted(FAMILIES))}; or run without --shrink",
            code="E330",
        )


def shrunken_config(
    config: dict[str, Any], layer_types: Sequence[str] | None, vocab_size: int
) -> dict[str, Any]:
    """`config` made small. `layer_types` is the kind of every layer, where there are kinds."""
    layers, kinds = few_layers(layer_types)
    small = config | head_structure(config) | {"vocab_size": vocab_size}
    small |= {"intermediate_size": INTERMEDIATE, "num_hidden_layers": layers}
    if kinds is not None:
        small["layer_types"] = kinds
        if "max_window_layers" in config:
            small["max_window_layers"] = _first_sliding(kinds)
    if config.get("sliding_window") is not None:
        small["sliding_window"] = min(int(config["sliding_window"]), WINDOW)
    width = small.get("head_dim") or small["hidden_size"] // small["num_attention_heads"]
    if "query_pre_attn_scalar" in config:
        small["query_pre_attn_scalar"] = width  # llama.cpp takes the head's width for it
    for name in ("rope_scaling", "rope_parameters"):
        if config.get(name):
            small[name] = fitted_rope(config[name], width, config)
    return small


def head_structure(config: dict[str, Any]) -> dict[str, int]:
    """hidden_size, heads and head_dim: at most two key-value heads, and the ratio as it was.

    >>> head_structure({"model_type": "llama", "hidden_size": 4096, "num_attention_heads": 32,
    ...                 "num_key_value_heads": 8})
    {'hidden_size': 256, 'num_attention_heads': 8, 'num_key_value_heads': 2, 'head_dim': 32}
    """
    wide, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
    pairs = int(config.get("num_key_value_heads") or heads)
    fewer_pairs = min(pairs, 4 if heads == pairs else 2)
    fewer, hidden = _heads_and_width(heads // pairs, fewer_pairs)
    same = heads * int(config.get("head_dim") or wide // heads) == wide
    structure = {
        "hidden_size": hidden,
        "num_attention_heads": fewer,
        "num_key_value_heads": fewer_pairs,
    }
    if config["model_type"] in OWN_HEAD_DIM:
        structure["head_dim"] = (hidden if same else 2 * hidden) // fewer
    return structure


def _heads_and_width(ratio: int, pairs: int) -> tuple[int, int]:
    """Heads, and the smallest hidden size that they and BLOCK divide.

    A ratio for which that is beyond MOST_HIDDEN (Qwen2.5's 7, with 1792) becomes a power of two.
    """
    sizes = range(BLOCK, MOST_HIDDEN + 1, BLOCK)
    nearest = 2 ** round(math.log2(ratio))
    return next(
        (pairs * each, size)
        for each in (ratio, nearest)
        for size in sizes
        if size % (pairs * each) == 0
    )


def few_layers(kinds: Sequence[str] | None) -> tuple[int, list[str] | None]:
    """The first layers, as many as it takes to have one of every kind; at least LAYERS.

    >>> few_layers(["sliding_attention"] * 5 + ["full_attention"] + ["sliding_attention"] * 20)[0]
    6
    """
    if kinds is None:
        return LAYERS, None
    wanted = set(kinds)
    enough = next(count for count in range(1, len(kinds) + 1) if set(kinds[:count]) == wanted)
    if enough > MOST_LAYERS:  # a pattern such as 28 full and then sliding ones
        ordered = list(dict.fromkeys(kinds))
        return len(ordered), ordered
    count = min(max(enough, LAYERS), len(kinds))
    return count, list(kinds[:count])


def _first_sliding(kinds: Sequence[str]) -> int:
    return next((n for n, kind in enumerate(kinds) if kind == "sliding_attention"), len(kinds))


def fitted_rope(rope: dict[str, Any], width: int, config: dict[str, Any]) -> dict[str, Any]:
    """A rope scaling for heads of `width`: lists of factors are thinned out, lengths stay."""
    part = float(rope.get("partial_rotary_factor") or config.get("partial_rotary_factor") or 1.0)
    wanted = int(width * part) // 2
    fitted: dict[str, Any] = {}
    for name, value in rope.items():
        if isinstance(value, dict):  # one rope for each kind of layer
            fitted[name] = fitted_rope(value, width, config)
        elif isinstance(value, list) and name.endswith("_factor"):
            fitted[name] = thinned(value, wanted)
        else:
            fitted[name] = value
    return fitted


def thinned(values: Sequence[Any], count: int) -> list[Any]:
    """`count` of the values, evenly spread, first and last among them.

    >>> thinned([1, 2, 3, 4, 5], 3)
    [1, 3, 5]
    """
    last = len(values) - 1
    return [values[(index * last) // max(1, count - 1)] for index in range(count)]
