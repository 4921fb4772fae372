"""Text whose every character remembers where in the file it came from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Traced:
    """Text, and for each of its characters the offset in the file that it came from."""

    text: str
    origins: tuple[int, ...]

    @classmethod
    def of_file(cls, text: str) -> Traced:
        """The file itself."""
        return cls(text, tuple(range(len(text))))

    @classmethod
    def new(cls, text: str, origin: int, length: int = 1) -> Traced:
        """Text in the place of `length` characters from `origin` on."""
        last = origin + max(1, length) - 1
        origins = [min(origin + number, last) for number in range(len(text))]
        return cls(text, (*origins[:-1], last) if text else ())

    def part(self, start: int, end: int | None = None) -> Traced:
        """As a slice of the text."""
        return Traced(self.text[start:end], self.origins[start:end])

    def __add__(self, other: Traced) -> Traced:
        return Traced(self.text + other.text, self.origins + other.origins)

    def lines(self) -> list[Traced]:
        """Its lines, each with its end."""
        found, start = [], 0
        while start < len(self.text):
            end = self.text.find("\n", start) + 1 or len(self.text)
            found.append(self.part(start, end))
            start = end
        return found

    def stripped(self) -> Traced:
        """Without white space at both ends."""
        start = len(self.text) - len(self.text.lstrip())
        return self.part(start, len(self.text.rstrip()))

    def shifted(self, columns: int) -> Traced:
        """A line moved to the right, or (below 0) to the left as far as it has spaces."""
        if not self.text.strip():
            return self
        origin = self.origins[0]
        if columns >= 0:
            return Traced(" " * columns, (origin,) * columns) + self
        spaces = len(self.text) - len(self.text.lstrip(" "))
        return self.part(min(-columns, spaces))


NONE = Traced("", ())


def joined(parts: Iterable[Traced]) -> Traced:
    """One text of many."""
    found = list(parts)
    return Traced(
        "".join(part.text for part in found), tuple(at for part in found for at in part.origins)
    )


def with_line_ends(edited: Traced, file: bytes) -> bytes:
    """The edited text as bytes, with the line ends and the byte order mark of the `file`."""
    text = file.decode("utf-8")
    mark = "\ufeff" if text.startswith("\ufeff") else ""
    ends = _line_ends(text.removeprefix("\ufeff"))
    usual = next(iter(ends.values()), "\n")
    written = [
        ends.get(origin, usual) if character == "\n" else character
        for character, origin in zip(edited.text, edited.origins, strict=True)
    ]
    return (mark + "".join(written)).encode("utf-8")


def _line_ends(text: str) -> Mapping[int, str]:
    """Offset of each line break in the text as it is read -> how the file writes it."""
    ends, shorter = {}, 0
    for match in re.finditer(r"\r\n|\r|\n", text):
        ends[match.start() - shorter] = match[0]
        shorter += len(match[0]) - 1
    return ends
