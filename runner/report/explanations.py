"""The sections of docs/errors.md by their codes: the one place where causes and fixes stand."""

from __future__ import annotations

import re

from runner.system.folders import shipped

_HEADING = re.compile(r"^### ([EW]\d{3}) (.+)$", re.MULTILINE)


def explained() -> dict[str, str]:
    """Code -> heading and text of its section, in the order of the page."""
    page = (shipped("docs") / "errors.md").read_text(encoding="utf-8")
    headings = list(_HEADING.finditer(page))
    ends = [*(heading.start() for heading in headings[1:]), len(page)]
    return {
        heading[1]: page[heading.start() + len("### ") : end].split("\n## ")[0].strip()
        for heading, end in zip(headings, ends, strict=True)
    }


def title(section: str) -> str:
    """What a code means in a few words: the heading without the code."""
    return section.splitlines()[0].partition(" ")[2]
