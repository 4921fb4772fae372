"""docs/errors.md explains every code, and every code of reading and checking can be triggered."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from runner.cli.validate import check_paths
from runner.errors import RecipeInvalid
from runner.execution.lacks import CODES as LACKS
from runner.recipe.load import check_recipe, load_recipe
from runner.report.reporters import REPORTERS
from runner.runs.several import refuse_shared_runs
from tests.blamed import blamed_by_new_and_migrate
from tests.chain import ROOT
from tests.recipe_cases import INVALID, VALID, copy_recipes, expectations
from tests.small_recipe import write_recipe

PAGE = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
CODE = re.compile(r"\b[EW]\d{3}\b")
# What a recipe or a command line can be blamed for: here everything has an example and a trigger.
CHECKED = re.compile(r"[EW][12]\d\d")


def sections() -> dict[str, str]:
    """Code -> its part of the page."""
    parts = re.split(r"^### (?=[EW]\d{3} )", PAGE, flags=re.MULTILINE)[1:]
    return {part[:4]: re.split(r"^## ", part, flags=re.MULTILINE)[0] for part in parts}


def codes_in_the_source() -> set[str]:
    return {
        code
        for path in (ROOT / "runner").rglob("*.py")
        if "shipped" not in path.parts
        for code in CODE.findall(path.read_text(encoding="utf-8"))
    }


def test_every_code_is_explained_once() -> None:
    assert codes_in_the_source() - set(sections()) == set(), "explain these in docs/errors.md"
    headings = re.findall(r"^### ([EW]\d{3}) ", PAGE, flags=re.MULTILINE)
    assert len(headings) == len(set(headings))
    assert set(headings) - codes_in_the_source() == set(), "these are explained, but not used"


@pytest.mark.parametrize("code", sorted(sections()))
def test_an_explanation_has_a_cause_and_a_fix(code: str) -> None:
    title, cause, *_ = sections()[code].split("\n\n")
    assert len(title.split()) >= 2
    assert len(cause) > 20
    assert "**Fix:** " in sections()[code]
    if CHECKED.fullmatch(code) and code not in {"E100", "E130"}:
        assert f"[{code}]" in sections()[code], "the explanation has no example"


def test_links_into_the_page_lead_somewhere() -> None:
    anchors = {
        re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")
        for title in re.findall(r"^#+ (.*)$", PAGE, flags=re.MULTILINE)
    }
    for target in re.findall(r"\]\(#([^)]*)\)", PAGE):
        assert target in anchors
    for target in re.findall(r"\]\(([\w.]+\.md)\)", PAGE):
        assert (ROOT / "docs" / target).is_file(), target


def test_the_examples_are_what_is_really_said(tmp_path: Path) -> None:
    recipes = copy_recipes(tmp_path)
    shown = {
        path.name: REPORTERS["text"](check_recipe(path)[1])
        .replace(str(path), path.name)
        .replace(f"{path.parent}/", "")
        for path in recipes.glob("invalid/*/*.yaml")
    }
    names = {path.name for path in INVALID}
    checked = 0
    for code, section in sections().items():
        for block in re.findall(r"```text\n(.*?)```", section, flags=re.DOTALL):
            named = re.findall(rf"^([\w./-]+):\d.*\[{code}\]", block, flags=re.MULTILINE)
            if named and named[0].startswith("../"):  # the place is in another file than the recipe
                assert any(block in report for report in shown.values()), code
            elif named and named[0] in names:
                assert block in shown[named[0]], code
            else:
                continue
            checked += 1
    assert checked >= 40


def triggered_by_no_file(folder: Path) -> set[str]:
    """Codes that need more than one recipe file to come about."""
    empty = folder / "empty"
    empty.mkdir()
    many = folder / "many.yaml"
    many.write_text("[" + "&a x, " * 200 + "]")
    found = {d.code for path in (folder / "none.yaml", many) for d in check_recipe(path)[1]}
    found |= {d.code for d in check_paths([empty])[1]}
    lock = folder / "x.lock.yaml"
    lock.write_text("lock: 1\nrecipe: {}\n")
    for path, option in ((VALID[0], "seed"), (VALID[0], "name.x=1"), (lock, "seed=1")):
        found |= {d.code for d in check_recipe(path, [option])[1]}
    with pytest.raises(RecipeInvalid) as caught:
        load_recipe(many)
    found |= blamed_by_new_and_migrate(folder / "more")
    return found | {caught.value.code} | two_of_one_name(folder)


def two_of_one_name(folder: Path) -> set[str]:
    """What is said of a recipe and its copy in one command."""
    for name in ("a", "b"):
        write_recipe(folder / f"{name}.yaml")
    with pytest.raises(RecipeInvalid) as caught:
        refuse_shared_runs([load_recipe(folder / f"{name}.yaml") for name in ("a", "b")])
    return {diagnostic.code for diagnostic in caught.value.diagnostics}


def test_every_code_of_reading_and_checking_is_triggered_by_a_test(tmp_path: Path) -> None:
    by_files = {stated.code for path in INVALID for stated in expectations(path)}
    wanted = {code for code in codes_in_the_source() if CHECKED.fullmatch(code)} - {"E130"}
    by_machines = set(LACKS)  # tests/unit/test_plan_cost.py takes each thing away from a machine
    assert by_files | by_machines | triggered_by_no_file(tmp_path) >= wanted
