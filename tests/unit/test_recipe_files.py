"""Every recipe under tests/recipes: what is valid stays valid, what is wrong is said exactly."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.errors import RecipeInvalid
from runner.recipe.load import check_recipe, load_recipe
from tests.recipe_cases import (
    BASES,
    EXTENDING,
    INVALID,
    RECIPES,
    VALID,
    copy_recipes,
    expectations,
)


@pytest.fixture(scope="module")
def recipes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_recipes(tmp_path_factory.mktemp("project"))


def test_all_files_are_found() -> None:
    assert len(VALID) == 16
    assert len(EXTENDING) == 8
    assert len(INVALID) == 312
    kinds = {"reading", "schema", "cross", "warnings", "extends", "chains"}
    assert {path.parent.name for path in INVALID} == kinds
    every = set(RECIPES.rglob("*.yaml"))
    assert every == {*VALID, *EXTENDING, *INVALID, *BASES}


@pytest.mark.parametrize("path", [*VALID, *EXTENDING], ids=lambda path: path.stem)
def test_a_valid_recipe_has_no_diagnostic(path: Path, recipes: Path) -> None:
    recipe, diagnostics = check_recipe(recipes / path.relative_to(RECIPES))
    assert diagnostics == []
    assert recipe is not None
    assert recipe.name == path.stem


@pytest.mark.parametrize("path", INVALID, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_wrong_recipe_has_exactly_the_diagnostics_that_it_states(
    path: Path, recipes: Path
) -> None:
    recipe, diagnostics = check_recipe(recipes / path.relative_to(RECIPES))
    expected = expectations(path)
    assert expected, "the file states no expectation"
    assert [(d.code, Path(d.file).name, d.line, d.column) for d in diagnostics] == [
        (e.code, e.file, e.line, e.column) for e in expected
    ]
    for diagnostic, stated in zip(diagnostics, expected, strict=True):
        assert diagnostic.message.startswith(stated.message)
        # a command that is to be typed names the file as it was given
        given = f"{(recipes / path.relative_to(RECIPES)).parent}/"
        assert diagnostic.hint.replace(given, "") == stated.hint
        assert diagnostic.severity == ("error" if diagnostic.code[0] == "E" else "warning")
        assert (diagnostic.line, diagnostic.column) <= (diagnostic.end_line, diagnostic.end_column)
    assert (recipe is None) == any(e.code.startswith("E") for e in expected)


@pytest.mark.parametrize("path", INVALID, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_place_lies_inside_of_the_file(path: Path, recipes: Path) -> None:
    _, diagnostics = check_recipe(recipes / path.relative_to(RECIPES))
    for diagnostic in diagnostics:
        text = Path(diagnostic.file).read_text(encoding="utf-8", errors="replace")
        lines = text.split("\n")
        assert diagnostic.line <= len(lines)
        if diagnostic.line:
            assert diagnostic.column <= len(lines[diagnostic.line - 1]) + 1


def test_loading_a_wrong_recipe_raises_with_everything_that_is_wrong(recipes: Path) -> None:
    with pytest.raises(RecipeInvalid) as caught:
        load_recipe(recipes / "invalid" / "schema" / "out-of-range.yaml")
    assert [d.code for d in caught.value.diagnostics] == ["E105"] * 6
    assert caught.value.exit_code == 2


def test_loading_a_recipe_with_warnings_gives_the_recipe(recipes: Path) -> None:
    recipe = load_recipe(recipes / "invalid" / "warnings" / "rank-and-scale.yaml")
    assert recipe.train.adapter.r == 1024
