"""What a workspace of `recipe webui` says of a run in it: the recipe that its tokens came from."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.capture.data_sets import Place
from runner.system.regular import read_regular

_SOURCES = ("wheel", "path", "hub", "revision", "sha256", "file", "dtype", "trust_remote_code")
_MOST = 1 << 20  # bytes of what a workspace says of a recipe
_REST = ("description", "evaluate", "merge", "gguf", "ollama", "benchmark")


@dataclass(frozen=True, slots=True)
class Origin:
    """`recipe` as it was prepared, its paths from where the captured recipe lies."""

    recipe: dict[str, Any]
    settings: dict[str, Any]  # what LLaMA Factory was told by it

    def model(self, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        """Where the model comes from; None when another one was chosen."""
        if settings.get("model_name_or_path") != self.settings["model_name_or_path"]:
            return None
        return {name: value for name, value in self.recipe["model"].items() if name in _SOURCES}

    def targets(self, settings: Mapping[str, Any]) -> Any:
        """The recipe's own words for the adapted layers; None when others were chosen."""
        if settings.get("lora_target") != self.settings.get("lora_target"):
            return None
        return self.recipe["train"]["adapter"].get("target_modules")

    def rest(self) -> dict[str, Any]:
        """What comes after the training, which the web UI knows nothing of."""
        return {name: self.recipe[name] for name in _REST if self.recipe.get(name) is not None}


def origin_of(settings: Mapping[str, Any], place: Place) -> Origin | None:
    """The recipe whose tokens were trained on; None when they are of no workspace of ours."""
    tokens = settings.get("tokenized_path")
    if not isinstance(tokens, str):
        return None
    path = (place.workspace / tokens).with_name(f"{Path(tokens).name}.json")
    try:
        found = json.loads(read_regular(path, _MOST))
        folder = (place.workspace / found["recipe_folder"]).resolve()
        return Origin(_moved(found["recipe"], folder, place.recipe), dict(found["settings"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _moved(recipe: dict[str, Any], start: Path, goal: Path) -> dict[str, Any]:
    """The recipe with its paths from another folder."""

    def moved(path: str) -> str:
        return path if Path(path).is_absolute() else os.path.relpath(start / path, goal)

    model, data = recipe["model"], recipe["data"]
    for holder in (model, *data["train"], *data["validation"].get("files", ())):
        if holder.get("path") is not None:
            holder["path"] = moved(holder["path"])
    if data["chat_template"].endswith(".jinja"):
        data["chat_template"] = moved(data["chat_template"])
    if (recipe.get("evaluate") or {}).get("questions"):
        recipe["evaluate"]["questions"] = moved(recipe["evaluate"]["questions"])
    return recipe
