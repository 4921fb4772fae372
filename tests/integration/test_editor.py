"""What an editor shows: the real YAML language server against the schema that recipes name."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runner.recipe.in_folders import recipes_below
from runner.recipe.load import check_recipe
from runner.recipe.schema import load_schema
from tests.chain import ROOT
from tests.editor.language_server import LanguageServer, install
from tests.recipe_cases import INVALID, RECIPES, VALID, copy_recipes

SHIPPED = sorted(recipes_below(ROOT / "recipes"))
BROKEN = [path for path in INVALID if path.parent.name == "schema"]

# The editor's lines where they are not those of `recipe validate`, by what sets them apart.
ALSO_MISSING = {  # a required key is misspelled: the editor says that it is missing, too
    "misspelled-adapter-type": {12},
    "model-source-misspelled": {5},
    "newer-schema": {5},  # and the tool says no more of a schema that it does not know
    "steps-misspelled": {12},
    "keys-of-other-tools": {35},
    "unknown-required-key": {4},
    "wrong-case": {3},
}
ALSO_THE_REST = {"many-unknown-keys": set(range(57, 66))}  # the tool names 20 of them
NO_INTEGER = {"float-for-an-integer": {15}, "schema-as-a-float": {3}}  # in JSON 1.0 is one
ANOTHER_LINE = {  # what excludes each other: the editor names the mapping, or the other key
    "fraction-and-files": ({12}, {13}),
    "model-folder-with-a-digest": ({6, 7}, {8}),
    "model-with-two-sources": ({5, 6}, {7}),
    "steps-and-epochs": ({12}, {15}),
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tests/recipes with a first line that names the schema, and the shipped ones as they are."""
    folder = tmp_path_factory.mktemp("project")
    copied = copy_recipes(folder)
    for name in ("schemas", "recipes"):
        shutil.copytree(ROOT / name, folder / "shipped" / name)
    for path in sorted(copied.rglob("*.yaml")):
        if not path.is_file():
            continue
        up = "../" * (len(path.relative_to(folder).parts) - 1)
        line = f"# yaml-language-server: $schema={up}shipped/schemas/recipe-1.json\n"
        path.write_bytes(line.encode() + path.read_bytes())
    return folder


@pytest.fixture(scope="module")
def server(project: Path, shared_cache: Path) -> Iterator[LanguageServer]:
    with LanguageServer(install(shared_cache), project) as running:
        yield running


def lines_of(diagnostics: list[dict[str, Any]]) -> set[int]:
    return {each["range"]["start"]["line"] + 1 for each in diagnostics}


def test_all_recipes_are_looked_at() -> None:
    assert len(BROKEN) >= 50
    assert len(SHIPPED) >= 3


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_recipe_names_the_schema_and_pleases_the_editor(
    path: Path, project: Path, server: LanguageServer
) -> None:
    first, _ = path.read_text(encoding="utf-8").split("\n", 1)
    start = "# yaml-language-server: $schema="
    assert first.startswith(start)
    assert (path.parent / first.removeprefix(start)).samefile(ROOT / "schemas" / "recipe-1.json")
    assert server.diagnostics(project / "shipped" / path.relative_to(ROOT)) == []


@pytest.mark.parametrize("path", VALID, ids=lambda path: path.stem)
def test_a_valid_recipe_has_no_mark(path: Path, project: Path, server: LanguageServer) -> None:
    assert server.diagnostics(project / "recipes" / path.relative_to(RECIPES)) == []


@pytest.mark.parametrize("path", BROKEN, ids=lambda path: path.stem)
def test_what_the_schema_forbids_is_marked_on_the_line_that_validate_names(
    path: Path, project: Path, server: LanguageServer
) -> None:
    copied = project / "recipes" / path.relative_to(RECIPES)
    found = lines_of(server.diagnostics(copied))
    ours = {each.line for each in check_recipe(copied)[1] if each.code.startswith("E1")}
    assert ours
    expected = (ours | ALSO_MISSING.get(path.stem, set()) | ALSO_THE_REST.get(path.stem, set())) - (
        NO_INTEGER.get(path.stem, set())
    )
    if path.stem in ANOTHER_LINE:
        expected, theirs = ANOTHER_LINE[path.stem]
        assert ours == theirs
    assert found == expected


def test_null_is_the_first_type_of_what_may_be_null() -> None:
    """A text whose default is null ends every completion of the server, if text comes first."""

    def types(node: Any) -> Iterator[list[str]]:
        children = node.values() if isinstance(node, dict) else node
        if isinstance(node, dict) and isinstance(node.get("type"), list):
            yield node["type"]
        for child in children:
            if isinstance(child, dict | list):
                yield from types(child)

    nullable = [each for each in types(load_schema()) if "null" in each]
    assert nullable
    assert [each for each in nullable if each[0] != "null"] == []


# --- completion and hover


RECIPE = """\
# yaml-language-server: $schema=../shipped/schemas/recipe-1.json
schema: 1
name: x
model: {path: model}
data:
  train:
    - {path: rows.jsonl, format: alpaca}
train:
  adapter: {type: lora, r: 8}
  max_steps: 4
  lr_scheduler_type: cosine
  lea
gguf:
  quantize:
    - Q8_0
    -\x20
"""


@pytest.fixture
def written(project: Path) -> Path:
    path = project / "recipes" / "written.yaml"
    path.write_text(RECIPE)
    return path


def description(*keys: str) -> str:
    """Of a field, from the schema; a branch is taken that has the key."""
    schema: Any = load_schema()
    for key in keys:
        branches = [schema, *schema.get("oneOf", ())]
        schema = next(each for each in branches if key in each.get("properties", ()))["properties"][
            key
        ]
    return str(schema["description"])


def completions(server: LanguageServer, path: Path, line: int, column: int) -> dict[str, str]:
    """Label -> its documentation, as text."""
    items = server.at("completion", path, line, column)["items"]
    return {item["label"]: text_of(item.get("documentation", "")) for item in items}


def text_of(documentation: Any) -> str:
    return str(documentation["value"] if isinstance(documentation, dict) else documentation)


def plain(text: str) -> str:
    """Without Markdown's marks, its escapes and its white space."""
    return " ".join(text.replace("\\", "").replace("&nbsp;", " ").split())


def place_of(words: str, behind: str = "") -> tuple[int, int]:
    """Line and column, from 1, of the first character of `words`; with `behind`, after it."""
    lines = RECIPE.split("\n")
    index = next(index for index, line in enumerate(lines) if words in line)
    return index + 1, lines[index].index(words) + len(behind) + 1


def test_a_key_is_completed_with_its_description(server: LanguageServer, written: Path) -> None:
    found = completions(server, written, *place_of("lea", behind="lea"))
    assert "max_steps" not in found, "it is there already"
    assert plain(description("train", "learning_rate")) in plain(found["learning_rate"])
    assert plain(description("train", "weight_decay")) in plain(found["weight_decay"])


def test_a_section_is_completed_with_its_description(server: LanguageServer, written: Path) -> None:
    line, column = place_of("  lea", behind="mer")
    written.write_text(RECIPE.replace("  lea", "mer"))
    found = completions(server, written, line, column)
    assert plain(description("merge")) in plain(found["merge"])
    assert "train" not in found


def test_values_are_completed(server: LanguageServer, written: Path) -> None:
    line, column = place_of("cosine")
    schedulers = load_schema()["properties"]["train"]["properties"]["lr_scheduler_type"]["enum"]
    assert set(schedulers) <= set(completions(server, written, line, column))
    line, _ = place_of("    - Q8_0")
    types = load_schema()["properties"]["gguf"]["properties"]["quantize"]["items"]["enum"]
    assert set(types) <= set(completions(server, written, line + 1, 7))


@pytest.mark.parametrize(
    ("words", "keys"),
    [
        ("lr_scheduler_type", ("train", "lr_scheduler_type")),
        ("name: x", ("name",)),
        ("r: 8", ("train", "adapter", "r")),
        ("quantize", ("gguf", "quantize")),
    ],
)
def test_a_key_under_the_pointer_is_explained(
    words: str, keys: tuple[str, ...], server: LanguageServer, written: Path
) -> None:
    answer = server.at("hover", written, *place_of(words))
    assert plain(description(*keys)) in plain(text_of(answer["contents"]))
