"""docs/recipe.md is what the schema says, and the recipes in it are recipes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from runner.cli.validate import check_paths
from runner.recipe.load import load_recipe
from runner.recipe.one_of import choice_of
from runner.recipe.schema import file_schema, fill_defaults, load_schema
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
    for name, schema in fields_of(file_schema()):
        row = next(
            line for line in page.splitlines()
            if line.startswith(f"| `{name}` |") and schema["description"] in line
        )  # fmt: skip
        if isinstance(schema.get("default"), (bool, int, float)):
            default = str(schema["default"]).lower()
            assert f"| `{default}` |" in row
    for name, _ in objects(load_schema()):
        assert not name or f"## `{name}`" in page


def texts_of(page: str) -> list[str]:
    return re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)


def section_on_bases() -> str:
    page = PAGE.read_text(encoding="utf-8")
    return page[page.index("## Bases") : page.index("## The recipe")]


def blocks() -> list[Any]:
    texts = texts_of(PAGE.read_text(encoding="utf-8").replace(section_on_bases(), ""))
    return [parse_source(text.encode(), PAGE).data for text in texts]


def test_the_example_of_the_whole_is_a_recipe() -> None:
    whole, *parts = blocks()
    assert findings(whole, load_schema()) == []
    assert fill_defaults(whole, load_schema())["train"]["learning_rate"] == 2e-4
    assert len(parts) >= 14
    assert all(len(part) == 1 for part in parts)


def test_the_recipe_that_extends_a_base_comes_out_as_the_page_says(tmp_path: Path) -> None:
    for text in texts_of(section_on_bases()):
        file = tmp_path / text.partition("\n")[0].removeprefix("# ")
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    (tmp_path / ".git").mkdir()
    (tmp_path / "models" / "tiny").mkdir(parents=True)
    (tmp_path / "models" / "tiny" / "config.json").write_text("{}")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "questions.jsonl").write_text('{"instruction": "a", "output": "b"}\n')
    assert check_paths([tmp_path])[:2] == (2, [])
    recipe = load_recipe(tmp_path / "wide.yaml")
    assert (recipe.model.path, recipe.gguf) == ("models/tiny", None)
    assert (recipe.train.max_steps, recipe.train.num_train_epochs) == (None, 2.0)
    adapter = recipe.train.adapter
    assert (adapter.type, adapter.r, len(adapter.target_modules)) == ("lora", 32, 4)


def test_the_page_names_what_goes_with_a_source() -> None:
    section = " ".join(section_on_bases().split())
    choice = choice_of(load_schema()["properties"]["model"])
    goes, stays = section.partition("of the model takes away")[2].split(";")[:2]
    for key in load_schema()["properties"]["model"]["oneOf"][2]["properties"]:
        if key not in choice.keys:
            assert f"`{key}`" in (goes if key in choice.bound else stays)
