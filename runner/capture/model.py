"""The model of LLaMA Factory's settings. Reads its config and the hub's cache; no network."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runner.capture.captured import Captured, Fate
from runner.capture.data_sets import Place
from runner.capture.hub_cache import HUB_ID, cached_commit, cached_snapshot

_DTYPES = ("float32", "bfloat16", "float16")


def model_of(values: Mapping[str, Any], place: Place, made: Captured) -> dict[str, Any]:
    text = str(values["model_name_or_path"])
    folder: Path | None = place.workspace / text
    model: dict[str, Any]
    if (place.workspace / text).is_dir() or HUB_ID.fullmatch(text) is None:
        model = {"path": _written(text, place)}
        made.note(Fate.MAPPED, "model_name_or_path", text, becomes=f"model.path: {model['path']}")
    else:
        folder, model = _of_the_hub(text, str(values["model_revision"]), made)
    model |= _dtype(folder, made)
    model |= _attention(values, made)
    if values["quantization_bit"] is not None:
        model["quantization"] = _quantization(values, made)
    if values["trust_remote_code"]:
        made.note(
            Fate.WARNING,
            "trust_remote_code",
            True,
            why="the model's own code was allowed to run (the web UI always allows it); not "
            "copied: say model.trust_remote_code only for a model that needs it and you trust",
        )
    return model


def _written(text: str, place: Place) -> str:
    """A folder's path as the recipe has it."""
    absolute = text.startswith("/")
    return text if absolute else os.path.relpath(place.workspace / text, place.recipe)


def _of_the_hub(name: str, revision: str, made: Captured) -> tuple[Path | None, dict[str, Any]]:
    """A repository, at the commit that lies in the hub's cache on this machine."""
    commit = cached_commit(name, revision)
    if commit is None:
        made.note(
            Fate.CLOSE,
            "model_revision",
            revision,
            becomes=f"model.revision: {revision}",
            why="which commit it was is not known here; `recipe lock` pins today's",
        )
        return None, {"hub": name, "revision": revision}
    made.note(Fate.MAPPED, "model_name_or_path", name, becomes=f"model.hub, pinned to {commit}")
    return cached_snapshot(name, commit), {"hub": name, "revision": commit}


def _dtype(folder: Path | None, made: Captured) -> dict[str, str]:
    """LLaMA Factory loads a checkpoint in the dtype that its config.json names."""
    try:
        config = json.loads(((folder or Path()) / "config.json").read_text(encoding="utf-8"))
        found = str(config.get("dtype") or config.get("torch_dtype"))
    except (OSError, ValueError, AttributeError):
        found = ""
    if found in _DTYPES:
        return {"dtype": found}
    made.note(
        Fate.CLOSE,
        "model_name_or_path",
        found or "no config.json at hand",
        becomes="model.dtype: bfloat16",
        why="LLaMA Factory takes the dtype that the model's config.json names",
    )
    return {"dtype": "bfloat16"}


def _attention(values: Mapping[str, Any], made: Captured) -> dict[str, str]:
    chosen = str(values["flash_attn"])
    known = {"auto": "sdpa", "sdpa": "sdpa", "disabled": "eager"}
    if chosen not in known:
        made.note(
            Fate.CLOSE, "flash_attn", chosen, becomes="sdpa", why="a recipe has sdpa and eager"
        )
    return {"attn_implementation": known.get(chosen, "sdpa")}


def _quantization(values: Mapping[str, Any], made: Captured) -> dict[str, Any]:
    bits, method = values["quantization_bit"], values["quantization_method"]
    if bits != 4 or method not in ("bnb", "bitsandbytes"):
        made.note(
            Fate.LOST,
            "quantization_bit",
            bits,
            becomes="4 bits by bitsandbytes",
            why=f"a recipe holds the base in 4 bits by bitsandbytes, not in {bits} by {method}",
        )
    return {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": values["quantization_type"],
        "bnb_4bit_use_double_quant": bool(values["double_quantization"]),
        "bnb_4bit_compute_dtype": "bfloat16",
    }
