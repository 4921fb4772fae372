"""The files of a Hugging Face model folder beside its weights. Standard library only."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from runner.scripts.spec import ScriptError

# tokenizer files that are copied as they are
COPIED = (
    "tokenizer.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
)
# Of config.json: what makes loading more than putting tensors where their names say.
OWN_WAYS = {
    "auto_map": "it brings its own code",
    "quantization_config": "its files are quantised already",
    "transformers_weights": "its files have names of their own",
}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object, or ScriptError E312."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ScriptError(f"{path} is not JSON: {error}", code="E312") from error
    if not isinstance(value, dict):
        raise ScriptError(f"{path} does not hold a JSON object", code="E312")
    return value


def copy_code(source: Path, target: Path) -> None:
    """The Python files that a trusted model brings along; other models have none."""
    for path in sorted(source.rglob("*.py")):
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Sorted keys, so that the bytes depend on the values alone."""
    text = json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True, allow_nan=False)
    path.write_bytes(text.encode() + b"\n")
