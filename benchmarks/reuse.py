"""A run that finds everything up to date, over the size of the model it starts from.

usage: .venv/bin/python -m benchmarks.reuse [RUNS] [GIGABYTES ...]

The model is a folder with one weights file of that size (holes, so that any size fits the disk),
and the recipe goes up to the tokens. The first run hashes every byte; the ones measured find the
size, times and inode that it remembered.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.timing import Command, table, time_side_by_side
from runner.system.folders import cache_folder
from tests.tiny_model import write_tiny_model

RECIPE = """
schema: 1
name: reuse
model: {path: model, dtype: float32}
data:
  train: [{path: rows.jsonl, format: alpaca}]
  max_length: 256
train: {adapter: {type: lora, r: 4, lora_alpha: 8}, max_steps: 1}
"""
GIGABYTE = 1_000_000_000


def main(runs: int, sizes: list[int]) -> None:
    """Print one table over all sizes."""
    with tempfile.TemporaryDirectory(prefix="reuse-") as name:
        commands = [write_project(Path(name) / str(size), size) for size in sizes]
        for each in commands:
            run_once(each)
        print(f"{runs} runs each, all up to date\n")
        print(table(time_side_by_side(commands, runs)), flush=True)


def run_once(command: Command) -> None:
    """The run that hashes everything and makes the tokens. Raises with its words when it fails."""
    env = {**os.environ, **(command.env or {})}
    ran = subprocess.run(
        list(command.argv), env=env, cwd=command.folder, capture_output=True, text=True, check=False
    )
    if ran.returncode:
        raise RuntimeError(f"{command.name} failed: {ran.stdout}{ran.stderr}")


def write_project(folder: Path, gigabytes: int) -> Command:
    """A project with a model of that size; the command that runs its recipe."""
    write_tiny_model(folder / "model")
    write_hole(folder / "model" / "model-of-holes.safetensors", gigabytes * GIGABYTE)
    row = {"instruction": "Say 1.", "input": "", "output": "One."}
    (folder / "rows.jsonl").write_text(json.dumps(row) + "\n")
    (folder / "reuse.yaml").write_text(RECIPE)
    recipe = str(Path(sys.executable).with_name("recipe"))
    env = {
        "SPARK_RECIPES_CACHE": str(cache_folder()),
        "SPARK_RECIPES_STORE": str(folder / "store"),
    }
    argv = [recipe, "run", "reuse.yaml", "--until", "prepare"]
    return Command(f"recipe run, model of {gigabytes} GB", argv, env, folder)


def write_hole(path: Path, size: int) -> None:
    """A safetensors file with one tensor of `size` bytes, all zero."""
    header = {"hole": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + size)


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[1:]]
    main(numbers[0] if numbers else 5, numbers[1:] or [1, 8, 64])
