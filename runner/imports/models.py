"""The `model` section: a folder of the workspace, or a repository of the hub, pinned if known."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from runner.capture.hub_cache import HUB_ID, cached_commit, cached_snapshot
from runner.errors import UsageError
from runner.imports.sheet import Sheet
from runner.imports.wanted import Wanted
from runner.recipe.model_facts import read_object
from runner.recipe.stored_types import trainable_twin


def add_model(sheet: Sheet, wanted: Wanted, name: str, revision: str = "") -> Path | None:
    """The model that the setting `name` names, at what `revision` names; its folder if it is here.

    Raises UsageError (E856) when it names none.
    """
    text = sheet.value(name)
    if not isinstance(text, str) or not text.strip():
        raise UsageError(
            f"the file names no model ({name})",
            hint="import the file that the training was started with",
            code="E856",
        )
    folder = wanted.place.workspace / text
    if _is_folder(folder) or HUB_ID.fullmatch(text) is None:
        return _of_a_folder(sheet, wanted, name, text)
    return _of_the_hub(sheet, wanted, name, text, revision)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def _of_a_folder(sheet: Sheet, wanted: Wanted, name: str, text: str) -> Path:
    folder = wanted.place.workspace / text
    absolute = text.startswith("/")
    path = text if absolute else os.path.relpath(folder, wanted.place.recipe)
    sheet.put("model.path", path, name)
    sheet.mapped(name, f"model.path: {path}")
    return folder


def _of_the_hub(sheet: Sheet, wanted: Wanted, name: str, text: str, setting: str) -> Path | None:
    twin = trainable_twin(text)
    repository = twin or text
    if twin:
        why = "its weights are stored in 4 or 8 bits; a recipe trains on the 16-bit ones"
        sheet.close(name, why, f"model.hub: {twin}")
    else:
        sheet.mapped(name, f"model.hub: {text}")
    sheet.put("model.hub", repository, name)
    given = sheet.value(setting) if setting and not twin else None
    branch = wanted.revision or (str(given) if given else "main")
    commit = cached_commit(repository, branch)
    if setting and sheet.has(setting):
        sheet.mapped(setting, f"model.revision: {commit or branch}")
    if commit:
        where = "as --revision says" if wanted.revision else "as it lies in the hub's cache here"
        sheet.put("model.revision", commit, name, where)
        return cached_snapshot(repository, commit)
    if branch != "main" or (setting and sheet.has(setting)):
        sheet.put(
            "model.revision", branch, setting or name, "a branch moves: `recipe lock` pins it"
        )
    return None


def stored_dtype(folder: Path | None) -> str | None:
    """The number type that a model's config.json names; None when nothing here says it."""
    config: dict[str, Any] = (read_object(folder / "config.json") if folder else None) or {}
    found = str(config.get("dtype") or config.get("torch_dtype"))
    return found if found in ("float32", "bfloat16", "float16") else None
