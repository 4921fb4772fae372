"""What a page of ours would fetch and run: nothing, if it is right."""

from __future__ import annotations

from html.parser import HTMLParser


class Loaded(HTMLParser):
    """What a page would load, and what in it would run."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.runs: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "href", "data", "srcset") and value is not None:
                self.loads.append(value)
            if name.startswith("on"):
                self.runs.append(name)
        if tag in ("script", "link", "iframe", "object", "embed"):
            self.runs.append(tag)
