"""docs/reproducibility.md shows the variations that the harness makes, in its words."""

from __future__ import annotations

from tests import variations
from tests.chain import ROOT

EQUAL = {each.name: "equal" for each in variations.VARIATIONS}


def test_the_page_has_the_harness_table() -> None:
    page = (ROOT / "docs" / "reproducibility.md").read_text(encoding="utf-8")
    assert f"\n{variations.table(EQUAL)}\n" in page


def test_each_variation_changes_something_of_its_own() -> None:
    base = variations.Surroundings()
    changed = [set(each.changes) for each in variations.VARIATIONS]
    assert sorted(name for names in changed for name in names) == sorted(vars(base))
    assert all(each.of(base) != base for each in variations.VARIATIONS)
