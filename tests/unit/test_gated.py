"""Which repositories the plan says need a licence click, by their names."""

from __future__ import annotations

import pytest

from runner.execution.lacks import GATED
from runner.recipe.load import load_recipe
from tests.chain import ROOT

COURSE = ROOT / "recipes" / "course"


@pytest.mark.parametrize(
    ("repository", "gated"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", True),
        ("google/gemma-2-2b-it", True),
        ("google/gemma-3-1b-it", True),
        ("google/gemma-3n-E2B-it", True),
        ("google/gemma-7b", True),
        ("google/gemma-4-12B-it", False),  # Apache-2.0
        ("mistralai/Mistral-7B-Instruct-v0.3", False),  # Apache-2.0
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", False),
        ("mistralai/Ministral-8B-Instruct-2410", True),  # research licence
        ("mistralai/Mistral-Small-Instruct-2409", True),
        ("mistralai/Mistral-Small-24B-Instruct-2501", False),
        ("Qwen/Qwen3-8B", False),
        ("microsoft/phi-4", False),
    ],
)
def test_what_needs_a_click_is_told_from_what_does_not(repository: str, gated: bool) -> None:
    assert repository.startswith(GATED) is gated


@pytest.mark.parametrize("path", sorted(COURSE.glob("10.2-*.yaml")), ids=lambda path: path.stem)
def test_the_readme_says_which_recipes_need_one(path: object) -> None:
    """A recipe is told to need no click exactly where its model is not among the gated ones."""
    recipe = load_recipe(path)  # type: ignore[arg-type]
    rows = [
        line
        for line in (ROOT / "README.md").read_text(encoding="utf-8").split("\n")
        if line.startswith(f"| [recipes/course/{recipe.source.path.name}]")
    ]
    assert len(rows) == 1
    assert ("without a licence click" in rows[0]) is not str(recipe.model.hub).startswith(GATED)
