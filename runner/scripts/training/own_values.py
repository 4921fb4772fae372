"""The values that a class of settings has by itself, as JSON data."""

from __future__ import annotations

import dataclasses
from typing import Any

from runner.scripts.training.trained_files import plain


def values_of(settings: Any) -> dict[str, Any]:
    """Field -> value as JSON data, after the class has replaced what it decides by itself."""
    names = [field.name for field in dataclasses.fields(settings)]
    return {name: shown(getattr(settings, name)) for name in names if hasattr(settings, name)}


def shown(value: Any) -> Any:
    value = plain(value)
    return value if isinstance(value, str | int | float | bool | list | dict | None) else str(value)
