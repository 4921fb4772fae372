"""Do two machines train the same: what of their plans differs, in words. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

# What stands in a stage's material, as a reader knows it.
_NAMES = {
    "protocol": "how the machines of this checkout talk",
    "recipe": "the recipe",
    "material.environment": "the environment's lock",
    "material.inputs.model": "the base model",
    "material.inputs.tokens": "the prepared data",
    "material.inputs.template": "the chat template",
    "material.version": "the version of the training",
}
_PLACES = (
    ("material.inputs.settings.", "train: "),
    ("material.platform.", "the platform: "),
    ("spec.settings.", "train: "),
    ("spec.env.", "the environment variable "),
    ("spec.", "train: "),
)
SHOWN = 60  # characters of a value


def differences(first: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """One line for everything that is otherwise on the first machine than here; [] when equal."""
    found: dict[str, None] = {}
    for path, theirs, ours in _differing("", first, here):
        found[f"{_name(path)}: {_shown(theirs)} on the first machine, {_shown(ours)} here"] = None
    return list(found)


def _differing(path: str, first: Any, here: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(first, Mapping) and isinstance(here, Mapping):
        for key in sorted({*first, *here}):
            inner = f"{path}.{key}" if path else str(key)
            yield from _differing(inner, first.get(key), here.get(key))
    elif first != here:
        yield path, first, here


def _name(path: str) -> str:
    if path in _NAMES:
        return _NAMES[path]
    for start, name in _PLACES:
        if path.startswith(start):
            return name + path.removeprefix(start)
    return path


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    text = str(value)
    if len(text) == 64 and set(text) <= set("0123456789abcdef"):
        return text[:12]
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"
