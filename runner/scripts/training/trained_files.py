"""Write what was trained: bytes that depend on the weights and settings alone, no path, no host."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft import get_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from runner.scripts.spec import ScriptError
from runner.scripts.weights.model_folder import COPIED, copy_code, read_json, write_json

_WEIGHTS = "adapter_model.safetensors"


def write_adapter(model: Any, folder: Path, weights: Mapping[str, Any] | None = None) -> None:
    """`adapter_model.safetensors` as PEFT writes it, and a sorted `adapter_config.json`.

    `weights`: what learned, by name, where the model itself holds only parts of it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # the base's own embeddings are not changed: never save them along
    state = get_peft_model_state_dict(model, weights, save_embedding_layers=False)
    weights = {name: weight.detach().cpu().contiguous() for name, weight in state.items()}
    save_file(weights, folder / _WEIGHTS, metadata={"format": "pt"})
    _write_config(folder, plain(model.peft_config["default"].to_dict()))


def copy_adapter(saved: Path, folder: Path) -> set[str]:
    """The same, of an adapter that PEFT saved in `saved`; the names of its weights.

    Raises ScriptError E524 when it cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        weights = load_file(saved / _WEIGHTS)
        config = read_json(saved / "adapter_config.json")
    except (OSError, SafetensorError) as error:
        raise ScriptError(
            f"the adapter in {saved} cannot be read: {error}",
            hint="read the log, then run the same command again",
            code="E524",
        ) from error
    save_file(weights, folder / _WEIGHTS, metadata={"format": "pt"})
    config["target_modules"] = sorted(config["target_modules"])
    _write_config(folder, config)
    return set(weights)


def _write_config(folder: Path, config: dict[str, Any]) -> None:
    config |= {"base_model_name_or_path": None, "revision": None, "inference_mode": True}
    write_json(folder / "adapter_config.json", config)


def write_model(
    model: Any, folder: Path, inputs: dict[str, Path], weights: Mapping[str, Any] | None = None
) -> None:
    """A complete model folder: float32 weights as trained, all else as the base has it.

    `inputs`: `model`, the base's folder, and `template`, the chat template in use. `weights`: all
    of them by name, where the model itself holds only parts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder, state_dict=weights)
    _beside_weights(folder, inputs)


def copy_model(saved: Path, folder: Path, inputs: dict[str, Path]) -> None:
    """The same, of weights that Transformers saved in `saved`."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(saved.glob("model*.safetensors*")):  # and the index of shards
        shutil.copyfile(path, folder / path.name)
    _beside_weights(folder, inputs)


def _beside_weights(folder: Path, inputs: dict[str, Path]) -> None:
    base = inputs["model"]
    write_json(folder / "config.json", read_json(base / "config.json") | {"dtype": "float32"})
    for name in ("generation_config.json", "tokenizer_config.json", *COPIED):
        (folder / name).unlink(missing_ok=True)
        if (base / name).exists():
            shutil.copyfile(base / name, folder / name)
    copy_code(base, folder)
    shutil.copyfile(inputs["template"], folder / "chat_template.jinja")


def plain(value: Any) -> Any:
    """JSON data: sets sorted, enumerations as their values."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(plain(item) for item in value)
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return getattr(value, "value", value)
