"""As many recipes as a large team has: made on the spot, the same ones every time."""

from __future__ import annotations

import copy
import json
import random
import shutil
from pathlib import Path
from typing import Any

from runner.recipe.flow import block
from runner.recipe.source import read_source
from tests.recipe_cases import RECIPES, VALID

EVERY = 4  # one recipe in so many is wrong
COMMENT = "# Made for a measurement.\n"


def write_recipes(folder: Path, count: int, *, wrong: bool = True) -> list[Path]:
    """`count` recipes in `folder`/many, with what they name beside it; one in EVERY is wrong."""
    chance = random.Random(0)
    (folder / "many").mkdir(parents=True)
    shutil.copytree(RECIPES / "data", folder / "data")
    (folder / ".git").mkdir()
    good = [read_source(path).data for path in VALID]
    # a recipe that it starts from, is compared with, or learns by, is a file of its own
    good = [
        data
        for data in good
        if not {"recipe"} & {*data["model"], *data.get("reward", {})} and "compare" not in data
    ]
    paths = []
    for number in range(count):
        made = _varied(copy.deepcopy(good[number % len(good)]), number, chance)
        text = COMMENT + "\n".join(block(made)) + "\n"
        if wrong and is_wrong(number):
            text = _damaged(text, number // EVERY, chance)
        paths.append(folder / "many" / f"{number:05}.yaml")
        paths[-1].write_text(text, encoding="utf-8")
    return paths


def is_wrong(number: int) -> bool:
    """Is the recipe of this number one of the wrong ones?"""
    return number % EVERY == EVERY - 1


def _varied(data: dict[str, Any], number: int, chance: random.Random) -> dict[str, Any]:
    data |= {"name": f"many-{number}", "seed": chance.randrange(2**32)}
    train = data["train"]
    train["learning_rate"] = round(chance.uniform(2e-5, 9e-5), 7)
    train["gradient_accumulation_steps"] = chance.randrange(1, 33)
    train["save_steps"] = chance.randrange(1, 999)
    return data


def _damaged(text: str, way: int, chance: random.Random) -> str:
    """Wrong in one of the ways that people go wrong."""
    ways = (
        lambda: text.replace("learning_rate:", "learing_rate:"),
        lambda: text.replace("save_steps:", "save_steps: many #"),
        lambda: text.replace("schema: 1\n", ""),
        lambda: text.replace("gradient_accumulation_steps:", "gradient_accumulation_steps: -"),
        lambda: text.replace("  learning_rate", " learning_rate"),
        lambda: text + "name: again\n",
        lambda: text + f"unknown: {json.dumps(chance.random())}\n",
    )
    return ways[way % len(ways)]()
