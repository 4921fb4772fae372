"""Which special tokens a recipe's chat template writes, by the files of its model alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.recipe.model_facts import MAX_CONFIG_BYTES, facts_of_folder, read_object
from runner.scripts.data.special_text import SpecialText, written_by
from runner.system.regular import NotReadable, read_regular

if TYPE_CHECKING:
    from runner.recipe.model import Recipe

_MAX_TOKENIZER_BYTES = 128 << 20


def special_text_of(recipe: Recipe, model: Path) -> SpecialText:
    """Finds such tokens in rows; none where the files do not tell them. `model`: its folder."""
    return SpecialText(written_by(_template(recipe, model), _special(model), _named(model)))


def _template(recipe: Recipe, model: Path) -> str:
    """The Jinja text in use; "" where it cannot be read."""
    from runner.stages.prepare import template_file

    if recipe.data.chat_template == "model":
        facts = facts_of_folder(model, str(model))
        return (facts and facts.chat_template) or ""
    try:
        return read_regular(template_file(recipe), MAX_CONFIG_BYTES).decode(errors="replace")
    except NotReadable:
        return ""


def _special(model: Path) -> list[str]:
    """The special tokens of tokenizer.json."""
    try:
        told = json.loads(read_regular(model / "tokenizer.json", _MAX_TOKENIZER_BYTES))
        added = told["added_tokens"]
        return [token["content"] for token in added if token.get("special")]
    except (NotReadable, ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return []  # `prepare`, which reads the tokenizer, says what is wrong with it


def _named(model: Path) -> dict[str, Any]:
    """`bos_token` and the like -> the token."""
    given = read_object(model / "tokenizer_config.json") or {}
    named = {name: value for name, value in given.items() if name.endswith("_token")}
    return {
        name: value.get("content") if isinstance(value, dict) else value
        for name, value in named.items()
        if isinstance(value, dict | str)
    }
