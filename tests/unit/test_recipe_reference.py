"""docs/recipe.md is what the schema says, and the recipes in it are recipes."""

from __future__ import annotations

import re
from typing import Any

from runner.recipe.schema import fill_defaults, load_schema
from runner.recipe.source import parse_source
from runner.recipe.validate import findings
from runner.report.recipe_reference import render
from tests.chain import ROOT
from tests.unit.test_recipe_schema import fields_of, objects

PAGE = ROOT / "docs" / "recipe.md"


def test_the_committed_page_is_the_generated_one() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(), (
        "run python -m runner.report.recipe_reference > docs/recipe.md"
    )


def test_every_field_has_a_row_with_its_default() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for name, schema in fields_of(load_schema()):
        row = next(
            line for line in page.splitlines()
            if line.startswith(f"| `{name}` |") and schema["description"] in line
        )  # fmt: skip
        if isinstance(schema.get("default"), (bool, int, float)):
            default = str(schema["default"]).lower()
            assert f"| `{default}` |" in row
    for name, _ in objects(load_schema()):
        assert not name or f"## `{name}`" in page


def blocks() -> list[Any]:
    texts = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    return [parse_source(text.encode(), PAGE).data for text in texts]


def test_the_example_of_the_whole_is_a_recipe() -> None:
    whole, *parts = blocks()
    assert findings(whole, load_schema()) == []
    assert fill_defaults(whole, load_schema())["train"]["learning_rate"] == 2e-4
    assert len(parts) >= 14
    assert all(len(part) == 1 for part in parts)
