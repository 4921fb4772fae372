"""Text of a recipe -> plain data, with the place of every key and value.

YAML 1.2 core scalars: `on` is text, `017` is 17, `2e-4` is a number. What a recipe has no use for
is refused where it stands: tags, anchors, aliases, merge keys, duplicate keys, several documents.
Depth and size are bounded while events arrive, before anything is built from them.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from runner.errors import RecipeInvalid
from runner.report.diagnostic import Diagnostic, severity_of
from runner.report.printable import escaped, without_tokens
from runner.system.regular import NotReadable, TooLarge, is_folder, read_regular

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


WHOLE = Span(0, 0, 0, 0)  # the place of what has no line: an option of the command line


@dataclass(frozen=True, slots=True)
class Source:
    """A recipe as it was read: one file, or one with its bases and with options laid over it.

    `values` and `keys` map a JSON pointer (RFC 6901) to the place of the value and of its key.
    `damaged` are pointers of values that were refused: what is said about them again is noise.
    `files` has the file of each value that stands elsewhere than in `path`: in one of `bases`, or
    in an option, whose "file" is `--set NAME` and whose values are in `overrides`, by name.
    """

    path: Path  # as the user named it
    data: Any = None
    values: Mapping[str, Span] = field(default_factory=dict)
    keys: Mapping[str, Span] = field(default_factory=dict)
    damaged: frozenset[str] = frozenset()
    problems: tuple[Diagnostic, ...] = ()
    files: Mapping[str, Path] = field(default_factory=dict)
    bases: tuple[Path, ...] = ()  # nearest first, named as in messages
    overrides: Mapping[str, Any] = field(default_factory=dict)
    text: str = ""  # of the file, with "\n" line ends

    @property
    def folder(self) -> Path:
        """Where the recipe's relative paths start: the real file's folder, links resolved."""
        return self.path.resolve().parent

    def span(self, pointer: str, *, at: str = "value") -> Span:
        """Place of the value at `pointer` (`at="key"`: of its key), else of the nearest above."""
        return self.place(pointer, at=at)[1]

    def place(self, pointer: str, *, at: str = "value") -> tuple[Path, Span]:
        """As `span`, with the file."""
        while True:
            span = self.keys.get(pointer) if at == "key" else None
            span = span or self.values.get(pointer)
            if span is not None:
                return self.file(pointer), span
            if not pointer:
                return self.path, Span(1, 1, 1, 1)
            pointer, at = pointer.rpartition("/")[0], "key"

    def file(self, pointer: str) -> Path:
        """The file in which the value at `pointer` stands."""
        return self.files.get(pointer, self.path)

    def at(self, pointer: str) -> Any:
        """The value at `pointer` as it is written. Raises LookupError."""
        return at_pointer(self.data, pointer)

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

        damaged = {name[len(pointer) :] for name in self.damaged if name.startswith(pointer)}
        return replace(
            self,
            data=self.at(pointer),
            values=inside(self.values),
            keys=inside(self.keys),
            damaged=frozenset(damaged),
            files={
                name[len(pointer) :]: file
                for name, file in self.files.items()
                if name == pointer or name.startswith(f"{pointer}/")
            },
        )

    def diagnostic(
        self, code: str, pointer: str, message: str, *, hint: str = "", at: str = "value"
    ) -> Diagnostic:
        """A problem at `pointer`, in the file that says it."""
        file, span = self.place(pointer, at=at)
        return at_span(file, code, span, message, hint=hint)


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


def at_pointer(data: Any, pointer: str) -> Any:
    """What stands at a JSON pointer of `data`. Raises LookupError."""
    for token in pointer_tokens(pointer):
        data = data[int(token)] if isinstance(data, list) else data[token]
    return data


def read_source(path: Path) -> Source:
    """Read and parse the recipe at `path`. Raises RecipeInvalid when nothing can be made of it."""
    return parse_source(read_bytes(path), path)


def parse_source(content: bytes, path: Path) -> Source:
    """Parse the `content` of the recipe at `path`. Raises RecipeInvalid when it is no YAML."""
    from runner.recipe.yaml_events import build

    return build(decode(content, path), path)


def read_bytes(path: Path) -> bytes:
    """Content of a regular file of at most MAX_BYTES. Raises RecipeInvalid."""
    try:
        return read_regular(path, MAX_BYTES)
    except TooLarge:
        message = f"the file is larger than {MAX_BYTES // 1024} KiB"
        raise _refused(path, "E112", None, message, "is it a recipe?") from None
    except NotReadable as error:
        if is_folder(path):
            raise _folder(path) from None
        raise _unreadable(path, str(error)) from None


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


def _folder(path: Path) -> RecipeInvalid:
    name = shlex.quote(str(path))
    hint = (
        f"name a file in it; `recipe run {name}/*.yaml` runs all of them, `recipe validate {name}` "
        "checks them"
    )
    return _refused(path, "E101", None, "a file is wanted here, and it is a folder", hint)


def _unreadable(path: Path, why: str) -> RecipeInvalid:
    return _refused(path, "E101", None, f"cannot read the file: {why}", "check the path")
