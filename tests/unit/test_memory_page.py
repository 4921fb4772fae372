"""The write-up of task 10.3 is what the plan counts today."""

from __future__ import annotations

from dataclasses import replace

from runner.plan.machines import hardware
from runner.report import memory_page
from tests.chain import ROOT

PAGE = ROOT / "docs" / "course" / "10.3-memory.md"


def test_the_page_is_current() -> None:
    written = PAGE.read_text(encoding="utf-8")
    assert written == memory_page.page(ROOT), f"python -m runner.report.memory_page > {PAGE}"


def test_every_recipe_of_the_two_tasks_is_on_it() -> None:
    course = sorted((ROOT / "recipes" / "course").glob("10.[23]-*.yaml"))
    recipes = [path for path in course if "comparison" not in path.name]  # which trains the 70B
    assert len(recipes) >= 8
    for path in recipes:
        assert f"[{path.stem}](../../{path.relative_to(ROOT).as_posix()})" in PAGE.read_text()


def test_a_card_with_more_memory_is_told_otherwise() -> None:
    """The words follow the numbers."""
    spark, card = hardware(memory_page.SPARK), hardware(memory_page.CARD)
    large = replace(card, memory=4 * card.memory)
    counted = [memory_page._count(ROOT, memory_page.LARGE, spark, each) for each in (card, large)]
    assert "by training an adapter: 10.3-70b-qlora." in memory_page._sorted_out(counted[:1])
    assert "On both: 10.3-70b-qlora." in memory_page._sorted_out(counted[1:])
    marked = [line for line in memory_page._by_kind(counted[1], large) if "\\* |" in line]
    assert marked == []
    assert [line for line in memory_page._by_kind(counted[0], card) if "\\* |" in line] != []
