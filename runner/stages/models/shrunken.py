"""A shrunken twin of a run (`--shrink`): what its stages do otherwise.

The base model is made from a config alone (scripts/shrink.py). Its random weights can say nothing
sensible, so two gates of quality only record what they find; every other gate holds.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.stages.contract import Context

if TYPE_CHECKING:
    from runner.recipe.model import Recipe

VERSION = 2  # raise when the same config may give another twin: real runs keep their keys
SEED = 0  # of the weights; not the recipe's, so that recipes of one model share its twin
ENVIRONMENT = "native"  # transformers and torch, which know the architectures


def is_shrunken(recipe: Recipe) -> bool:
    """Is this the twin of a recipe, made by `--shrink`?"""
    return recipe.shrink is not None


def key_fact(recipe: Recipe) -> dict[str, Any]:
    """What the twin's keys say more than the recipe's own: nothing for a recipe itself."""
    return {"shrink": {"seed": SEED, "version": VERSION}} if is_shrunken(recipe) else {}


def is_read(path: Path) -> bool:
    """Of a model's folder a twin reads everything but the weights."""
    return path.suffix != ".safetensors" and not path.name.endswith(".index.json")


def make_twin(source: Path, trust: bool | None, context: Context) -> Path:
    """A model folder in scratch, shrunk from `source`: config.json and, if any, a tokenizer.

    `trust`: as scripts/fetch.py takes it.
    """
    place = context.scratch / "shrunken"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    context.run_script(
        "shrink",
        {"seed": SEED, "trust_remote_code": trust},
        inputs={"source": source},
        folder=place,
        environment=ENVIRONMENT,
    )
    return place / "model"


def describe_gguf(source: Path, file: str, context: Context) -> Path:
    """Config and tokenizer of a GGUF file, as a folder in scratch that `make_twin` takes."""
    place = context.scratch / "described"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    context.run_script(
        "fetch",
        {"kind": "gguf", "file": file, "dtype": "float32", "weights": False},
        inputs={"source": source},
        folder=place,
    )
    return place / "model"
