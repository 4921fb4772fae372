"""YAML events -> data and places, refusing what a recipe must not contain.

Works on parser events alone: no resolver, no constructor, nothing that YAML could call. libyaml's
parser is used where PyYAML has it, else PyYAML's own; a test holds the two to the same answers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runner.errors import RecipeInvalid
from runner.recipe.scalars import NotANumber, is_text, plain_value
from runner.recipe.source import Source, Span, at_span, escape_token
from runner.recipe.syntax import NO_CHARACTER, NO_TABS, TAB, USE_EIGHT_DIGITS, explain
from runner.report.diagnostic import Diagnostic
from runner.report.printable import escaped, quoted

MAX_DEPTH = 32
MAX_EVENTS = 20_000
MAX_PROBLEMS = 100

_TIGHT_COMMENT = re.compile(r"[|>][0-9+-]*#")  # behind the sign of a block of text

_DIRECTIVE = re.compile(r"%YAML +1\.2 *(#.*)?")


def build(text: str, path: Path, *, pure: bool = False) -> Source:
    """`text` as data with places. Problems that leave the rest readable are in `Source.problems`.

    `pure` forces PyYAML's own parser. Raises RecipeInvalid for what ends the reading.
    """
    import yaml

    loader = yaml.SafeLoader if pure else getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    builder = _Builder(text, path)
    try:
        builder.document(yaml.parse(text, Loader=loader))
    except yaml.MarkedYAMLError as error:
        builder.syntax_error(error)
    except yaml.YAMLError as error:
        builder.stop("E113", None, str(error))
    except _Stop:
        pass
    if builder.stopped:
        raise RecipeInvalid(builder.problems)
    return Source(
        path=path,
        data=builder.data,
        values=builder.values,
        keys=builder.keys,
        damaged=frozenset(builder.damaged),
        problems=tuple(builder.problems),
        text=text,
    )


class _Stop(Exception):
    """Reading ends; the reason is the last problem."""


class _Builder:
    """One pass over the events of one document."""

    def __init__(self, text: str, path: Path) -> None:
        self.text = text
        self.path = path
        self.data: Any = None
        self.values: dict[str, Span] = {}
        self.keys: dict[str, Span] = {}
        self.damaged: set[str] = set()
        self.problems: list[Diagnostic] = []
        self.stopped = False
        self._scalars: list[tuple[int, int, bool]] = []  # start, end in characters; in quotes?
        self._end = (1, 1)  # line and column behind the last token
        self._events: Iterator[Any] = iter(())
        self._count = 0
        self._ignoring = False  # inside a value that is read only to get past it
        self._brackets = 0  # that are open

    # --- the document

    def document(self, events: Iterator[Any]) -> None:
        """Read the only document of the stream."""
        self._events = events
        self._next()  # start of the stream
        start = self._next()
        if not _is(start, "DocumentStart"):
            self.stop("E121", None, "the recipe is empty", "start from recipes/quickstart.yaml")
        self._refuse_directives(start)
        self.data = self._node(self._next(), "", 0)
        self._next()  # end of the document
        after = self._next()
        if not _is(after, "StreamEnd"):
            self.stop(
                "E115", _span(after), "a second document starts here", "one file holds one recipe"
            )
        self._refuse_tabs()

    def _refuse_directives(self, start: Any) -> None:
        if start.tags:
            self._problem(
                "E116", _span(start), "%TAG directives are not allowed", "remove the line"
            )
        if start.version not in (None, (1, 2)):
            self.stop("E113", _span(start), "recipes are YAML 1.2", "remove the %YAML line")
        if not start.tags:  # one of the parsers lets others through
            head = self.text[start.start_mark.index : start.end_mark.index]
            if any(line[:1] == "%" and not _DIRECTIVE.fullmatch(line) for line in head.split("\n")):
                self.stop("E113", _span(start), "an unknown directive", "remove the line with %")

    def _next(self) -> Any:
        event = next(self._events)
        self._count += 1
        if self._count > MAX_EVENTS:
            self.stop("E112", _span(event), f"more than {MAX_EVENTS} parts", "is it a recipe?")
        return event

    # --- nodes

    def _node(self, event: Any, pointer: str, depth: int) -> Any:
        """The value that starts with `event`, its places recorded under `pointer`."""
        if depth > MAX_DEPTH:
            self.stop("E112", _span(event), f"nested deeper than {MAX_DEPTH}", "is it a recipe?")
        start = (event.start_mark.line + 1, event.start_mark.column + 1)
        self._refuse_references(event, pointer)
        if _is(event, "Scalar"):
            value = self._scalar(event, pointer)
        elif _is(event, "SequenceStart"):
            value = self._sequence(event, pointer, depth)
        elif _is(event, "MappingStart"):
            value = self._mapping(event, pointer, depth)
        else:  # an alias, already refused
            value = None
            self._set_end(event.end_mark)
        if not self._ignoring:
            self.values[pointer] = Span(*start, *max(start, self._end))
        return value

    def _scalar(self, event: Any, pointer: str) -> Any:
        self._note_scalar(event)
        if event.style or event.tag:
            return self._checked_text(event)
        try:
            return plain_value(event.value)
        except NotANumber as error:
            self._problem(
                "E120",
                _span(event),
                str(error),
                "write an ordinary number, or put text into quotes",
                damages=pointer,
            )
            return None

    def _checked_text(self, event: Any) -> str:
        """Quoted text. Refuses what only one of the two parsers lets through."""
        value: str = event.value
        if _TIGHT_COMMENT.match(self.text, event.start_mark.index):
            self.stop("E113", _span(event), "a comment needs a space before it", 'write " #"')
        if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
            self.stop("E113", _span(event), NO_CHARACTER, USE_EIGHT_DIGITS)
        return value

    def _sequence(self, event: Any, pointer: str, depth: int) -> list[Any]:
        items: list[Any] = []
        self._brackets += bool(event.flow_style)
        while not _is(item := self._next(), "SequenceEnd"):
            items.append(self._node(item, f"{pointer}/{len(items)}", depth + 1))
        self._close(event, item)
        return items

    def _mapping(self, event: Any, pointer: str, depth: int) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        first: dict[str, int] = {}
        self._brackets += bool(event.flow_style)
        while not _is(key_event := self._next(), "MappingEnd"):
            key = self._key(key_event, pointer, depth)
            if key is not None and key in first:
                self._problem(
                    "E118",
                    _span(key_event),
                    f"duplicate key {quoted(key, 60)}",
                    f"it stands in line {first[key]} already; keep one of them",
                )
                key = None
            if key is None:
                self._ignore(self._next(), depth)
                continue
            first[key] = key_event.start_mark.line + 1
            child = f"{pointer}/{escape_token(key)}"
            if not self._ignoring:
                self.keys[child] = _span(key_event)
            mapping[key] = self._node(self._next(), child, depth + 1)
        self._close(event, key_event)
        return mapping

    def _key(self, event: Any, pointer: str, depth: int) -> str | None:
        """The text of a key; None (and a problem) when it is not a text."""
        self._refuse_references(event, pointer)
        if not _is(event, "Scalar"):
            if not _is(event, "Alias"):
                self._ignore(event, depth)
                self._problem(
                    "E119",
                    _span(event),
                    "a key must be text",
                    'write "key: value"',
                    damages=pointer,
                )
            return None
        self._note_scalar(event)
        if event.style or event.tag:
            return self._checked_text(event)
        if event.value == "<<":
            self._problem(
                "E117",
                _span(event),
                "merge keys are not allowed in a recipe",
                "write the values out",
                damages=pointer,
            )
            return None
        if not is_text(event.value):
            self._problem(
                "E119",
                _span(event),
                f"key {quoted(event.value, 60)} is not text",
                f"put it into quotes: {quoted(event.value, 60)}",
                damages=pointer,
            )
            return None
        return str(event.value)

    def _ignore(self, event: Any, depth: int) -> None:
        """Read past the value that starts with `event`."""
        before, self._ignoring = self._ignoring, True
        self._node(event, "", depth + 1)
        self._ignoring = before

    def _refuse_references(self, event: Any, pointer: str) -> None:
        """Tags and anchors stand before a value; an alias stands for one."""
        if _is(event, "Alias"):
            self._problem(
                "E117",
                _span(event),
                "aliases are not allowed in a recipe",
                "write the value out",
                damages=pointer,
            )
            return
        if getattr(event, "anchor", None):
            self._problem(
                "E117",
                _start_of(event, len(event.anchor) + 1),
                "anchors are not allowed in a recipe",
                f"remove &{event.anchor}",
            )
        if getattr(event, "tag", None):
            self._problem(
                "E116",
                _start_of(event, 1),
                f"the YAML tag {_tag_as_written(event.tag)} is not allowed in a recipe",
                "remove it",
                damages=pointer,
            )

    # --- places

    def _close(self, start: Any, end: Any) -> None:
        """A block ends with its last value, brackets end with themselves."""
        if start.flow_style:
            self._brackets -= 1
            self._set_end(end.end_mark)

    def _set_end(self, mark: Any) -> None:
        end, line, column = mark.index, mark.line + 1, mark.column + 1
        if column == 1:  # a block scalar's mark is the start of a line behind it
            while end and self.text[end - 1] in "\n ":
                end -= 1
                line -= self.text[end] == "\n"
            column = end - self.text.rfind("\n", 0, end)
        self._end = (line, column)

    def _note_scalar(self, event: Any) -> None:
        start, end = event.start_mark.index, event.end_mark.index
        if self._brackets and not event.style and "?" in event.value:
            message = 'a "?" cannot stand here without quotes'  # for one of the two parsers
            self.stop("E113", _span(event), message, "put the text into quotes")
        if event.style in ("|", ">"):  # the text begins in the line below the sign
            below = self.text.find("\n", start, end)
            start = below if below >= 0 else end
        self._scalars.append((start, end, bool(event.style)))
        self._set_end(event.end_mark)

    def _refuse_tabs(self) -> None:
        """A tab means another thing to each parser, but for quotes, blocks of text, comments."""
        position = self.text.find("\t")
        beyond = (len(self.text) + 1, len(self.text) + 1, False)
        scalars = iter(self._scalars)
        start, end, in_quotes = next(scalars, beyond)
        behind = 0  # end of the last scalar before the tab
        while position >= 0:
            while end <= position:
                behind = end
                start, end, in_quotes = next(scalars, beyond)
            gap = max(behind, self.text.rfind("\n", 0, position) + 1)
            if start <= position and in_quotes:
                position = self.text.find("\t", end)
            elif start > position and "#" in self.text[gap:position]:
                line_end = self.text.find("\n", position)
                position = self.text.find("\t", line_end) if line_end >= 0 else -1
            else:
                self._tab(position)

    def _tab(self, position: int) -> None:
        line = self.text.count("\n", 0, position) + 1
        column = position - self.text.rfind("\n", 0, position)
        span = Span(line, column, line, column + 1)
        self.stop("E114", span, TAB, NO_TABS)

    # --- problems

    def _problem(
        self, code: str, span: Span, message: str, hint: str, *, damages: str | None = None
    ) -> None:
        if self._ignoring:
            return
        if len(self.problems) >= MAX_PROBLEMS:
            self.stop("E124", span, f"more than {MAX_PROBLEMS} problems; the rest is not shown")
        self.problems.append(at_span(self.path, code, span, message, hint=hint))
        if damages is not None:
            self.damaged.add(damages)

    def stop(self, code: str, span: Span | None, message: str, hint: str = "") -> None:
        """Report what ends the reading. Raises _Stop."""
        self.problems.append(at_span(self.path, code, span, message, hint=hint))
        self.stopped = True
        raise _Stop

    def syntax_error(self, error: Any) -> None:
        """Report what the parser could not read. Ends the reading."""
        self.stopped = True
        self.problems.append(explain(error, self.text, self.path))


def _is(event: Any, name: str) -> bool:
    return type(event).__name__ == f"{name}Event"


def _span(event: Any) -> Span:
    start, end = event.start_mark, event.end_mark
    return Span(start.line + 1, start.column + 1, end.line + 1, end.column + 1)


def _tag_as_written(tag: str) -> str:
    return escaped(tag.replace("tag:yaml.org,2002:", "!!")[:60])


def _start_of(event: Any, length: int) -> Span:
    line, column = event.start_mark.line + 1, event.start_mark.column + 1
    return Span(line, column, line, column + length)
