"""The recipe that the README shows is a valid one."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from runner.recipe.load import check_recipe
from tests.chain import ROOT


def test_the_readmes_recipe_is_valid(tmp_path: Path) -> None:
    block = re.search(r"(?ms)^```yaml\n(schema: 1\n.*?)^```", (ROOT / "README.md").read_text())
    assert block is not None
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    shown = tmp_path / "recipes" / "readme.yaml"
    shown.write_text(block.group(1))
    recipe, found = check_recipe(shown)
    assert recipe is not None, found
    assert {diagnostic.code for diagnostic in found} <= {"W201"}
