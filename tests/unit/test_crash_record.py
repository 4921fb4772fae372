"""The table of faults in the documents is what the full tests wrote, and nothing was lost."""

from __future__ import annotations

from tests.chain import ROOT
from tests.crash_record import read_rows, table


def test_the_documents_show_the_recorded_table() -> None:
    page = (ROOT / "docs" / "reproducibility.md").read_text(encoding="utf-8")
    assert table() in page, "paste what `python -m tests.crash_record` prints"


def test_nothing_was_lost_and_nothing_left() -> None:
    rows = read_rows()
    assert sum(row.injected for row in rows) > 500
    for row in rows:
        assert row.injected == row.survived > 0, row
        assert (row.lost, row.leftovers) == (0, 0), row
