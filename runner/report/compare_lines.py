"""A comparison in a few lines, for the end of a run: the page has the rest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from runner.report.compare_text import difference_rows, titles
from runner.report.printable import escaped


def compare_lines(data: Mapping[str, Any], page: str, *, made: bool) -> Iterator[str]:
    """Trained model by trained model, differences with their intervals; where the page is.

    Of the form of answers the page tells.
    """
    sides = {model["name"]: model["side"] for model in data["models"]}
    for found in data["comparisons"]:
        if sides.get(found["first"]) == sides.get(found["second"]) == "tuned":
            yield f"compared          {escaped(found['second'])} minus {escaped(found['first'])}"
            yield from _differences(data, found)
    yield f"the page         {page}{'' if made else ' (as it was)'}"


def _differences(data: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[str]:
    names = titles(data)
    for each in found["differences"]:
        if names[each["measure"]].startswith("form: "):
            continue
        for title, change, interval, count, words in difference_rows(names, each):
            yield f"  {title}: {change} {interval}, on {count}: {words}"
