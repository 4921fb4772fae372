"""The codes that `recipe new` and `recipe migrate` end with, each made to happen."""

from __future__ import annotations

import io
import re
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

from runner.cli.main import main
from runner.recipe import versions
from runner.recipe.load import check_recipe
from tests.recipe_versions import FUTURE, PAST

ROW = '{"text": "a"}\n'
OLD = """\
schema: 1
name: old
model: {path: model}
data:
  files:
    - {path: rows.jsonl, format: text}
train: {adapter: {type: lora}, max_steps: 1}
"""


def said(*arguments: str) -> set[str]:
    """The codes that a command line ends with."""
    shown = io.StringIO()
    with redirect_stdout(shown), redirect_stderr(shown):
        main(arguments)
    return set(re.findall(r"\[([EW]\d{3})\]", shown.getvalue()))


def blamed_by_new_and_migrate(folder: Path) -> set[str]:
    """Every code of the two commands that a test in here can cause."""
    folder.mkdir()
    (folder / ".git").mkdir()
    rows, recipe = folder / "rows.jsonl", folder / "x.yaml"
    rows.write_text(ROW)
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text("{}")
    answers = ["--data", str(rows), "--machine", "gpu", "--memory", "24", "--no-input"]
    found = said("new", str(recipe), *answers)
    found |= said("new", str(recipe), "--model", "nowhere", *answers)
    found |= said("new", str(recipe), "--model", "a/x-70B", *answers)
    found |= said("new", str(recipe), "--model", "smollm2", "--data", "none", *answers)
    found |= said("new", str(recipe), "--model", "smollm2", "--name", "A B", *answers)
    assert not recipe.exists()
    found |= said("new", str(recipe), "--model", "smollm2", *answers)
    found |= said("new", str(recipe), "--model", "smollm2", *answers)
    (folder / "x.lock.yaml").write_text("lock: 1\nrecipe: {}\n")
    found |= said("migrate", str(folder / "x.lock.yaml"))
    with mock.patch.object(versions, "VERSIONS", FUTURE):
        found |= said("migrate", "--check", str(recipe))
        recipe.write_text(recipe.read_text().replace("\ndata:\n", "\ndata:\n  ? system\n  : Hi.\n"))
        found |= said("migrate", str(recipe))
    with mock.patch.object(versions, "VERSIONS", PAST):
        recipe.write_text(OLD)
        found |= {diagnostic.code for diagnostic in check_recipe(recipe)[1]}
    return found
