"""The chat templates that a recipe can name: Jinja texts beside the modules of families.

For models without a template, and for those whose own cannot be trained with. Each is written so
that answers can be told from prompts. Looked at by `recipe validate`, so nothing heavy is imported.
"""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).with_name("families")


def names() -> tuple[str, ...]:
    """What `data.chat_template` may name, sorted."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.jinja")))


def path_of(name: str) -> Path:
    """The Jinja file of a name. Raises KeyError for one that is not shipped."""
    if name not in names():
        raise KeyError(name)
    return _FOLDER / f"{name}.jinja"


def is_path(chat_template: str) -> bool:
    """Does the recipe give a file of its own, rather than `model` or a name?"""
    return chat_template.endswith(".jinja")
