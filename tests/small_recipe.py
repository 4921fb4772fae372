"""A recipe whose files are all there, and its lock: enough for everything that trains nothing."""

from __future__ import annotations

from pathlib import Path

from runner.lock.file import as_text, head_of, lock_path
from runner.lock.pins import cheap_pins
from runner.recipe.load import load_recipe

RECIPE = """\
schema: 1
name: t
model: {path: model}
data: {train: [{path: rows.jsonl, format: alpaca}]}
train: {adapter: {type: lora}, max_steps: 4}
"""
ROW = '{"instruction": "q", "output": "a"}\n'


def write_recipe(path: Path, text: str = RECIPE) -> None:
    """The recipe, with its model's folder and its rows beside it."""
    (path.parent / "model").mkdir(parents=True, exist_ok=True)
    (path.parent / "model" / "config.json").write_text("{}\n")
    (path.parent / "rows.jsonl").write_text(ROW)
    path.write_text(text)


def lock(path: Path) -> None:
    """Write the lock of the recipe at `path`, as if its model had been fetched."""
    pins = cheap_pins(load_recipe(path))
    pins |= {"model": {"model/config.json": "0" * 64}, "facts": {}}
    lock_path(path).write_text(as_text(pins, head_of(path.name)), encoding="utf-8")
