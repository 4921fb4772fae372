"""Text of a recipe -> plain data, with the place of every key and value.

YAML 1.2 core scalars: `on` is text, `017` is 17, `2e-4` is a number. What a recipe has no use for
is refused where it stands: tags, anchors, aliases, merge keys, duplicate keys, several documents.
Depth and size are bounded while events arrive, before anything is built from them.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from runner.errors import RecipeInvalid
from runner.report.diagnostic import Diagnostic, severity_of
from runner.report.printable import escaped, without_tokens

MAX_BYTES = 256 * 1024

# Unprintable characters; line ends that editors do not count (U+0085, U+2028, U+2029); marks that
# turn the direction of text, so that a line reads other than it is.
_FORBIDDEN = re.compile(
    "[^\\t\\n\\x20-\\x7e\\xa0-\\u2027\\u202f-\\u2065\\u206a-\\ud7ff\\ue000-\\ufefe\\uff00-\\ufffd"
    "\\U00010000-\\U0010ffff]"
)
_MAX_FORBIDDEN = 20  # enough to see what is wrong with a file that is no text at all


@dataclass(frozen=True, slots=True)
class Span:
    """Lines and columns from 1, in characters; the end is the first column behind."""

    line: int
    column: int
    end_line: int
    end_column: int


@dataclass(frozen=True, slots=True)
class Source:
    """One recipe file as it was read.

    `values` and `keys` map a JSON pointer (RFC 6901) to the place of the value and of its key.
    `damaged` are pointers of values that were refused: what is said about them again is noise.
    """

    path: Path  # as the user named it
    data: Any = None
    values: Mapping[str, Span] = field(default_factory=dict)
    keys: Mapping[str, Span] = field(default_factory=dict)
    damaged: frozenset[str] = frozenset()
    problems: tuple[Diagnostic, ...] = ()

    @property
    def folder(self) -> Path:
        """Where the recipe's relative paths start: the real file's folder, links resolved."""
        return self.path.resolve().parent

    def span(self, pointer: str, *, at: str = "value") -> Span:
        """Place of the value at `pointer` (`at="key"`: of its key), else of the nearest above."""
        while True:
            place = self.keys.get(pointer) if at == "key" else None
            place = place or self.values.get(pointer)
            if place is not None:
                return place
            if not pointer:
                return Span(1, 1, 1, 1)
            pointer, at = pointer.rpartition("/")[0], "key"

    def is_damaged(self, pointer: str) -> bool:
        """Was the value at `pointer`, or one above it, refused while reading?"""
        return any(pointer == bad or pointer.startswith(f"{bad}/") for bad in self.damaged)

    def part(self, pointer: str) -> Source:
        """The value at `pointer` as a source of its own, each of its values still in its place."""

        def inside(places: Mapping[str, Span]) -> dict[str, Span]:
            return {
                name[len(pointer) :]: span
                for name, span in places.items()
                if name == pointer or name.startswith(f"{pointer}/")
            }

        data = self.data
        for token in pointer_tokens(pointer):
            data = data[token]
        damaged = {name[len(pointer) :] for name in self.damaged if name.startswith(pointer)}
        return replace(
            self,
            data=data,
            values=inside(self.values),
            keys=inside(self.keys),
            damaged=frozenset(damaged),
        )

    def diagnostic(
        self, code: str, pointer: str, message: str, *, hint: str = "", at: str = "value"
    ) -> Diagnostic:
        """A problem of this file at `pointer`."""
        return at_span(self.path, code, self.span(pointer, at=at), message, hint=hint)


def at_span(
    path: Path, code: str, span: Span | None, message: str, *, hint: str = ""
) -> Diagnostic:
    """A problem of the file `path` at `span`; None is the whole file."""
    place = (span.line, span.column, span.end_line, span.end_column) if span else (0, 0, 0, 0)
    message, hint = without_tokens(message), without_tokens(hint)
    return Diagnostic(code, severity_of(code), message, str(path), *place, hint)


def escape_token(key: str) -> str:
    """One key as a part of a JSON pointer."""
    return key.replace("~", "~0").replace("/", "~1")


def pointer_tokens(pointer: str) -> list[str]:
    """The keys of a JSON pointer, unescaped."""
    return [token.replace("~1", "/").replace("~0", "~") for token in pointer.split("/")[1:]]


def read_source(path: Path) -> Source:
    """Read and parse the recipe at `path`. Raises RecipeInvalid when nothing can be made of it."""
    return parse_source(read_bytes(path), path)


def parse_source(content: bytes, path: Path) -> Source:
    """Parse the `content` of the recipe at `path`. Raises RecipeInvalid when it is no YAML."""
    from runner.recipe.yaml_events import build

    return build(decode(content, path), path)


def read_bytes(path: Path) -> bytes:
    """Content of a regular file of at most MAX_BYTES. Raises RecipeInvalid.

    Opened without blocking, so that a named pipe or a terminal is refused, not waited for.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            mode = os.fstat(descriptor).st_mode
            content = _read_all(descriptor) if stat.S_ISREG(mode) else b""
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:
        raise _unreadable(path, getattr(error, "strerror", None) or str(error)) from None
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
        raise _unreadable(path, f"it is {what}")
    if len(content) > MAX_BYTES:
        raise _refused(
            path,
            "E112",
            None,
            f"the file is larger than {MAX_BYTES // 1024} KiB",
            "is it a recipe?",
        )
    return content


def _read_all(descriptor: int) -> bytes:
    content = b""
    while (left := MAX_BYTES + 1 - len(content)) and (part := os.read(descriptor, left)):
        content += part
    return content


def decode(content: bytes, path: Path) -> str:
    """UTF-8 `content` as text with "\\n" line ends. Raises RecipeInvalid, with the place."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8")
        raise _refused(
            path,
            "E110",
            _span_behind(_with_unix_ends(before)),
            f"byte 0x{content[error.start]:02x} is not UTF-8",
            "save the file as UTF-8",
        ) from None
    text = _with_unix_ends(text.removeprefix("\ufeff"))
    found = list(_forbidden_characters(text, path))
    if found:
        raise RecipeInvalid(found)
    return text


def _forbidden_characters(text: str, path: Path) -> list[Diagnostic]:
    matches = zip(range(_MAX_FORBIDDEN), _FORBIDDEN.finditer(text), strict=False)
    return [
        at_span(
            path,
            "E111",
            _span_behind(text[: match.start()]),
            f"character U+{ord(match[0]):04X} is not allowed in a recipe",
            hint=f'write "{escaped(match[0])}" in double quotes, or remove it',
        )
        for _, match in matches
    ]


def _with_unix_ends(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _span_behind(before: str) -> Span:
    """Place of the one character that follows the text `before`."""
    line = before.count("\n") + 1
    column = len(before) - (before.rfind("\n") + 1) + 1
    return Span(line, column, line, column + 1)


def _refused(path: Path, code: str, span: Span | None, message: str, hint: str) -> RecipeInvalid:
    return RecipeInvalid([at_span(path, code, span, message, hint=hint)])


def _unreadable(path: Path, why: str) -> RecipeInvalid:
    return _refused(path, "E101", None, f"cannot read the file: {why}", "check the path")
