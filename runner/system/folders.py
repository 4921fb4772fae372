"""Where things lie: the cache, the store in it, and what the tool ships."""

from __future__ import annotations

import os
from pathlib import Path

from runner.errors import UsageError

CACHE = "SPARK_RECIPES_CACHE"
STORE = "SPARK_RECIPES_STORE"
PREBUILT = "SPARK_RECIPES_PREBUILT"  # environments and tools of an image, beside the cache
_PACKAGE = Path(__file__).resolve().parent.parent


def cache_folder() -> Path:
    """SPARK_RECIPES_CACHE, else `spark-recipes` below XDG_CACHE_HOME, else below ~/.cache.

    Everything that can be made again: environments, tools, and the store. Not created here.
    """
    if chosen := os.environ.get(CACHE):
        return _expanded(chosen, CACHE)
    base = Path(os.environ.get("XDG_CACHE_HOME") or "")
    # The XDG rules say that a relative path there must be ignored.
    return (base if base.is_absolute() else _home() / ".cache") / "spark-recipes"


def store_folder() -> Path:
    """SPARK_RECIPES_STORE, else `store` in the cache folder. Not created here."""
    chosen = os.environ.get(STORE)
    return _expanded(chosen, STORE) if chosen else cache_folder() / "store"


def store_variable() -> str:
    """The variable that says where the store is: its own, or the cache's."""
    return STORE if os.environ.get(STORE) else CACHE


def shipped(kind: str) -> Path:
    """The folder `schemas`, `environments`, `recipes` or `docs`, of the checkout or the wheel."""
    checkout = _PACKAGE.parent
    if (checkout / "pyproject.toml").is_file() and (checkout / kind).is_dir():
        return checkout / kind
    return _PACKAGE / "shipped" / kind


def _expanded(chosen: str, variable: str) -> Path:
    try:
        return Path(chosen).expanduser().absolute()
    except RuntimeError:
        raise UsageError(
            f"{variable} is {chosen[:80]}, and there is no such home folder",
            hint=f"set {variable} to a folder, by its whole path",
        ) from None


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError:
        raise UsageError(
            "there is no home folder to keep the cache in",
            hint=f"set {CACHE} to a folder you may write to",
        ) from None
