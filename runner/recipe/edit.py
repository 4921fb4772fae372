"""Edit a recipe's text by its places: what is not edited stays as it is, byte for byte.

A library that loads and dumps (ruamel.yaml) keeps comments, but sets indentation, spaces in
brackets and long lines by its own rules; a review of a migration would then be full of lines that
nobody meant to change (docs/decisions/0013-migration-by-places.md). Here a piece of text is
replaced, cut out or put in, and the rest is never touched. Every character remembers where in the
file it came from, so that an edited recipe's errors can point into the file as it is.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

from runner.recipe.flow import flow
from runner.recipe.source import Source, Span, escape_token, pointer_tokens
from runner.recipe.traced import NONE, Traced, joined

STEP = 2  # columns of one level, where a mapping is made that was not there
_COMMENT = re.compile(r"(?<!\S)#[^\n]*")
_COMMENT_LINE = re.compile(r"( *)#")
# What means the same in brackets as outside of them, without being read.
_ANYWHERE = re.compile(r"[A-Za-z0-9.+-][A-Za-z0-9_.+/=-]*|\"[^\"\\\n]*\"|'[^'\n]*'")


class NotEditable(Exception):
    """The text at `pointer` is written in a way that is not edited."""

    def __init__(self, pointer: str, message: str) -> None:
        super().__init__(message)
        self.pointer, self.message = pointer, message


@dataclass(frozen=True, slots=True)
class _Piece:
    """An entry of a mapping, cut out: key and value, and the comments that belong to it."""

    above: list[Traced]  # comment lines, without indentation and line end
    key: Traced
    value: Traced  # as it was written; its later lines still have the old indentation
    data: Any
    inner: list[Traced]  # comments inside of a value of several lines
    behind: Traced  # a comment behind the value, with the spaces before it; may be empty
    below: list[Traced]  # comment lines under the value, deeper than the key
    column: int  # of the key, from 0; -1 for an entry in brackets

    @property
    def comments(self) -> list[Traced]:
        behind = [self.behind.stripped()] if self.behind.text else []
        return [*self.above, *self.inner, *behind, *(line.stripped() for line in self.below)]


class Document:
    """One recipe to be edited. A pointer is a JSON pointer into the data below `root`.

    Each edit does nothing where its pointer leads nowhere: a section or a key may be left out.
    """

    def __init__(self, source: Source, root: str = "") -> None:
        self._source, self._root = source, root
        self._text = Traced.of_file(source.text)
        self._file = source.text
        self._read()

    # --- what it says now

    @property
    def text(self) -> str:
        """The text as edited."""
        return self._text.text

    @property
    def traced(self) -> Traced:
        """The text as edited, with the places in the file."""
        return self._text

    @property
    def source(self) -> Source:
        """The edited recipe's data, each place the one in the file that it came from."""
        starts = _line_starts(self._file)

        def place(span: Span) -> Span:
            start, end = self._offsets(span)
            if not self._text.origins:
                return span
            last = len(self._text.origins) - 1
            first = self._text.origins[min(start, last)]
            behind = self._text.origins[min(max(start, end - 1), last)] + (end > start)
            return Span(
                *_line_and_column(starts, first), *_line_and_column(starts, max(first, behind))
            )

        return replace(
            self._source,
            values={pointer: place(span) for pointer, span in self._source.values.items()},
            keys={pointer: place(span) for pointer, span in self._source.keys.items()},
            text=self._file,
        )

    def get(self, pointer: str) -> Any:
        """The value at `pointer`; None when there is none."""
        data = self._source.data
        for token in pointer_tokens(self._root + pointer):
            if isinstance(data, list) and token.isdecimal() and int(token) < len(data):
                data = data[int(token)]
            elif isinstance(data, dict) and token in data:
                data = data[token]
            else:
                return None
        return data

    def has(self, pointer: str) -> bool:
        """Is there a value, be it null?"""
        return self._root + pointer in self._source.values

    # --- edits

    def rename(self, pointer: str, key: str) -> None:
        """Give the entry at `pointer` another key; its place in the mapping stays."""
        if self.has(pointer):
            start, end = self._offsets(self._source.keys[self._root + pointer])
            self._replace_in_line(start, end, flow(key))

    def set(self, pointer: str, value: Any) -> None:
        """Give the entry at `pointer` another value. Comments inside of the old one move above."""
        if not self.has(pointer):
            return
        full = self._root + pointer
        start, end = self._offsets(self._source.values[full])
        lost = self._comments_between(start, end)
        if start == end:  # `key:` and nothing behind it, or a lone `key` in brackets
            _, key_end = self._offsets(self._source.keys[full])
            colon = re.compile(r"\s*:").match(self._text.text, key_end)
            at = colon.end() if colon else key_end
            word = Traced.new(f"{'' if colon else ':'} {flow(value)}", self._text.origins[at - 1])
            self._splice(at, at, word)
        else:
            self._replace_in_line(start, end, flow(value))
        self._comment_above(full, lost)

    def add(self, pointer: str, value: Any) -> None:
        """Put a new entry at the end of its mapping, which is made when it is missing.

        An entry that is there already keeps its value.
        """
        if self.has(pointer):
            return
        where = self._root
        for key in pointer_tokens(pointer)[:-1]:
            child = f"{where}/{escape_token(key)}"
            if child not in self._source.values:
                break
            where = child
        _, end = self._offsets(self._source.values[where])
        origin = self._text.origins[max(0, min(end, len(self._text.origins)) - 1)]
        name = Traced.new(flow(pointer_tokens(pointer)[-1]), origin)
        piece = _Piece([], name, Traced.new(flow(value), origin), value, [], NONE, [], -1)
        self._put(pointer, piece)

    def remove(self, pointer: str) -> None:
        """Take an entry out, with the comments that belong to it."""
        if self.has(pointer):
            self._cut(self._root + pointer)

    def move(self, pointer: str, to: str) -> None:
        """Take an entry to another place and key, its comments with it."""
        if not self.has(pointer):
            return
        assert not self.has(to), f"{to} is there already"
        piece = self._cut(self._root + pointer)
        origin, length = piece.key.origins[0], len(piece.key.text)
        key = flow(pointer_tokens(to)[-1])
        if key != piece.key.text:
            piece = replace(piece, key=Traced.new(key, origin, length))
        self._put(to, piece)

    def wrap(self, pointer: str) -> None:
        """Make the value at `pointer` the only item of a list."""
        if not self.has(pointer):
            return
        full = self._root + pointer
        start, end = self._offsets(self._source.values[full])
        text = self._text.text
        if start == end:
            self.set(pointer, [None])
        elif text[start] in "|>":
            column = self._owner_column(full) + STEP
            head = Traced.new(f"\n{' ' * column}- ", self._text.origins[start])
            gap = len(text[:start]) - len(text[:start].rstrip(" "))
            self._splice(start - gap, end, head + self._shifted(start, end, 2 * STEP))
        elif self._is_block(full):
            end = self._end_of_lines(end, self._owner_column(full))
            item = Traced.new("- ", self._text.origins[start])
            self._splice(start, end, item + self._shifted(start, end, STEP))
        else:
            value = self._text.part(start, end)
            inner = (
                value if text[start] in "[{\"'" else self._for_brackets(value, self.get(pointer))
            )
            opened, closed = self._text.origins[start], self._text.origins[end - 1]
            self._splice(start, end, Traced.new("[", opened) + inner + Traced.new("]", closed))

    def replace_in_comments(self, pattern: re.Pattern[str], new: str) -> None:
        """Replace every match of `pattern` that lies inside of a comment."""
        for start, end in reversed(self._comment_ranges(0, len(self._text.text))):
            for match in reversed(list(pattern.finditer(self._text.text[start:end]))):
                first = start + match.start()
                origin = self._text.origins[first]
                changed = Traced.new(match.expand(new), origin, len(match[0]))
                self._text = (
                    self._text.part(0, first) + changed + self._text.part(start + match.end())
                )
        self._read()

    def comment(self, pointer: str, text: str) -> None:
        """Put a comment behind the entry at `pointer`, whose value is on one line, if it has none.

        `text` begins with its "#".
        """
        if not self.has(pointer):
            return
        _, end = self._offsets(self._source.values[self._root + pointer])
        line_end = self._line_end(end)
        if not self._text.text[end:line_end].strip():
            origin = self._text.origins[max(0, end - 1)]
            self._splice(end, line_end, Traced.new(f"  {text}", origin))

    def comments(self) -> list[str]:
        """Every comment, in the order of the text, each from its "#" on."""
        ranges = self._comment_ranges(0, len(self._text.text))
        return [self._text.text[start:end].rstrip() for start, end in ranges]

    # --- cutting out

    def _cut(self, full: str) -> _Piece:
        parent = full.rpartition("/")[0]
        if self._is_block(parent):
            return self._cut_lines(full, parent)
        return self._cut_from_brackets(full, parent)

    def _cut_lines(self, full: str, parent: str) -> _Piece:
        text = self._text.text
        key_start, (_, key_end), (start, end) = self._entry(full)
        column = self._column(key_start)
        line_start = key_start - column
        first = self._first_comment_line(full, parent, line_start, column)
        last = self._end_of_lines(end, column)
        value_line_end = min(self._line_end(end), last)
        behind = self._text.part(end, value_line_end)
        piece = _Piece(
            above=[line.stripped() for line in self._text.part(first, line_start).lines()],
            key=self._text.part(key_start, key_end),
            value=self._text.part(start, end),
            data=self._data(full),
            inner=self._comments_between(key_end, end),
            behind=behind.part(0, len(behind.text.rstrip())),
            below=self._text.part(min(value_line_end + 1, last), last).lines(),
            column=column,
        )
        if start > key_end and "\n" in text[key_end:start]:  # `key:  # comment`, value below
            piece = self._with_head(piece, key_end, start)
        siblings = self._siblings(parent)
        if len(siblings) == 1:
            self._leave_empty(parent, first, last)
        elif text[line_start:key_start].strip():  # behind the "- " of a list's item
            follower = self._offsets(self._source.keys[siblings[1]])[0]
            lost = self._comments_between(last, follower)
            self._splice(key_start, follower, NONE)
            self._comment_above(parent, lost)
        else:
            self._splice(first, min(last + 1, len(text)), NONE)
        return piece

    def _with_head(self, piece: _Piece, key_end: int, start: int) -> _Piece:
        """The piece with what stands between its key and a value that begins below."""
        line_start = start - self._column(start)
        colon = self._text.text.index(":", key_end) + 1
        head = self._text.part(colon, line_start)
        return replace(piece, value=head + self._text.part(line_start, start) + piece.value)

    def _leave_empty(self, parent: str, first: int, last: int) -> None:
        """The only entry is gone: `{}` takes its place."""
        if parent == self._root:
            raise NotEditable(parent[len(self._root) :], "nothing would be left")
        origin = self._text.origins[first]
        if parent in self._source.keys:
            _, key_end = self._offsets(self._source.keys[parent])
            colon = self._text.text.index(":", key_end) + 1
            kept = self._text.part(colon, first)  # a comment behind the parent's key
            kept = kept.part(0, len(kept.text.rstrip()))
            self._splice(colon, last, Traced.new(" {}", origin) + kept)
        else:
            start, _ = self._offsets(self._source.values[parent])
            self._splice(start, last, Traced.new("{}", origin))

    def _cut_from_brackets(self, full: str, parent: str) -> _Piece:
        key_start, (_, key_end), (start, end) = self._entry(full)
        siblings = self._siblings(parent)
        index = siblings.index(full)
        if index + 1 < len(siblings):
            gap_end = self._offsets(self._source.keys[siblings[index + 1]])[0]
            cut = (key_start, gap_end)
        elif index:
            cut = (self._offsets(self._source.values[siblings[index - 1]])[1], end)
        else:
            opened, closed = self._offsets(self._source.values[parent])
            cut = (opened + 1, closed - 1)
        comments = [
            self._text.part(*each)
            for each in self._comment_ranges(*cut)
            if not start <= each[0] < end
        ]
        piece = _Piece(
            above=comments,
            key=self._text.part(key_start, key_end),
            value=self._text.part(start, end),
            data=self._data(full),
            inner=[] if self._text.text[start] in "{[" else self._comments_between(start, end),
            behind=NONE,
            below=[],
            column=-1,
        )
        self._splice_in_line(*cut, NONE)
        return piece

    def _first_comment_line(self, full: str, parent: str, line_start: int, column: int) -> int:
        """Offset of the first of the comment lines right above an entry that belong to it."""
        if self._text.text[line_start : line_start + column].strip():
            return line_start
        siblings = self._siblings(parent)
        index = siblings.index(full)
        if index:
            bound = self._offsets(self._source.values[siblings[index - 1]])[1]
        elif parent in self._source.keys:
            bound = self._offsets(self._source.keys[parent])[1]
        else:
            bound = 0
        first = line_start
        while first > 0:
            above = self._text.text.rfind("\n", 0, first - 1) + 1
            found = _COMMENT_LINE.match(self._text.text, above)
            if above < bound or found is None or len(found[1]) != column:
                break
            first = above
        return line_start if first == 0 else first  # the file's own head is no entry's comment

    def _end_of_lines(self, end: int, column: int) -> int:
        """End of the line of `end`, or of the last of the deeper comment lines below it."""
        last = self._line_end(end)
        while last < len(self._text.text):
            found = _COMMENT_LINE.match(self._text.text, last + 1)
            if found is None or len(found[1]) <= column:
                break
            last = self._line_end(last + 1)
        return last

    # --- putting in

    def _put(self, to: str, piece: _Piece) -> None:
        """Put `piece` at the end of its mapping, making the mappings that are missing."""
        tokens = pointer_tokens(to)[:-1]
        parent = self._root
        while tokens and f"{parent}/{escape_token(tokens[0])}" in self._source.values:
            parent += f"/{escape_token(tokens.pop(0))}"
        if not isinstance(self._data(parent), dict):
            raise NotEditable(parent[len(self._root) :], "a mapping is needed here")
        if self._is_block(parent):
            self._put_lines(parent, tokens, piece)
        else:
            self._put_in_brackets(parent, tokens, piece)

    def _put_lines(self, parent: str, missing: list[str], piece: _Piece) -> None:
        last_sibling = self._siblings(parent)[-1]
        column = self._column(self._key_start(last_sibling))
        end = self._end_of_lines(self._offsets(self._source.values[last_sibling])[1], column)
        origin = piece.key.origins[0]

        def line(indent: int, *parts: Traced) -> Traced:
            return Traced.new("\n" + " " * indent, origin) + joined(parts)

        new = []
        for name in missing:
            new.append(line(column, Traced.new(f"{flow(name)}:", origin)))
            column += STEP
        new += [line(column, comment) for comment in piece.above]
        value = _reindented(piece, column)
        colon = Traced.new(":", origin)
        if value.text and not value.text[0].isspace():
            colon = Traced.new(": ", origin)
        new.append(line(column, piece.key, colon, value, piece.behind))
        below = [each.part(0, len(each.text.rstrip("\n"))) for each in piece.below]
        new += [Traced.new("\n", origin) + each.shifted(column - piece.column) for each in below]
        self._splice(end, end, joined(new))

    def _put_in_brackets(self, parent: str, missing: list[str], piece: _Piece) -> None:
        start, end = self._offsets(self._source.values[parent])
        origin = piece.key.origins[0]
        inner = piece.key + Traced.new(": ", origin) + self._for_brackets(piece.value, piece.data)
        for name in reversed(missing):
            inner = Traced.new(f"{flow(name)}: {{", origin) + inner + Traced.new("}", origin)
        siblings = self._siblings(parent)
        if siblings:
            at = self._offsets(self._source.values[siblings[-1]])[1]
            self._splice_in_line(at, at, Traced.new(", ", origin) + inner)
        else:
            self._splice_in_line(start + 1, end - 1, inner)
        kept = piece.value.text[:1] in ("{", "[")  # with the comments inside of it
        self._comment_above(parent, replace(piece, inner=[]).comments if kept else piece.comments)

    def _for_brackets(self, value: Traced, data: Any) -> Traced:
        """A value as it can stand between brackets."""
        if value.text[:1] in ("{", "[") or _ANYWHERE.fullmatch(value.text):
            return value
        origin = value.origins[0] if value.origins else 0
        return Traced.new(flow(data), origin, max(1, len(value.text)))

    def _comment_above(self, full: str, comments: list[Traced]) -> None:
        """Comment lines above the nearest entry that has a line of its own."""
        if not comments:
            return
        while full and (full not in self._source.keys or not self._is_block(_parent(full))):
            full = _parent(full)
        keyed = full in self._source.keys
        at = self._key_start(full) if keyed else self._offsets(self._source.values[full])[0]
        line_start = self._text.text.rfind("\n", 0, at) + 1
        before = self._text.text[line_start:at]
        indent = " " * (len(before) - len(before.lstrip(" ")) if before.strip() else len(before))
        new = [
            Traced.new(indent, each.origins[0]) + each + Traced.new("\n", each.origins[-1])
            for each in comments
        ]
        self._splice(line_start, line_start, joined(new))

    # --- small things

    def _read(self) -> None:
        """Parse the text again. An edit that breaks it is our bug."""
        from runner.recipe.yaml_events import build

        self._starts = _line_starts(self._text.text)
        self._source = build(self._text.text, self._source.path)
        assert not self._source.problems, self._source.problems

    def _splice(self, start: int, end: int, new: Traced) -> None:
        self._text = self._text.part(0, start) + new + self._text.part(end)
        self._read()

    def _replace_in_line(self, start: int, end: int, new: str) -> None:
        self._splice_in_line(start, end, Traced.new(new, self._text.origins[start], end - start))

    def _splice_in_line(self, start: int, end: int, piece: Traced) -> None:
        """Replace, and keep a comment behind it in its column where there is room."""
        line_end = self._line_end(end)
        comment = next(iter(self._comment_ranges(end, line_end)), None)
        text = self._text.part(0, start) + piece
        if comment is None or "\n" in self._text.text[start:end] + piece.text:
            self._text = text + self._text.part(end)
        else:
            between = self._text.part(end, comment[0])
            content = between.part(0, len(between.text.rstrip()))
            gap = len(between.text) - len(content.text)
            grown = len(piece.text) - (end - start)
            spaces = max(min(gap, 2), gap - grown)
            filled = Traced.new(" " * spaces, self._text.origins[comment[0]])
            self._text = text + content + filled + self._text.part(comment[0])
        self._read()

    def _shifted(self, start: int, end: int, columns: int) -> Traced:
        """The text between, all lines but its first moved to the right."""
        first, *rest = self._text.part(start, end).lines()
        return joined([first, *(line.shifted(columns) for line in rest)])

    def _is_block(self, full: str) -> bool:
        """Is the mapping or list at `full` written in lines, not in brackets?"""
        start, end = self._offsets(self._source.values[full])
        data = self._data(full)
        return (
            isinstance(data, (dict, list)) and start < end and (self._text.text[start] not in "{[")
        )

    def _entry(self, full: str) -> tuple[int, tuple[int, int], tuple[int, int]]:
        """Start of the key; key; value; as offsets. Raises NotEditable."""
        key = self._offsets(self._source.keys[full])
        line_start = self._text.text.rfind("\n", 0, key[0]) + 1
        if re.search(r"(^|\s)\?\s", self._text.text[line_start : key[0]]):
            raise NotEditable(full[len(self._root) :], 'the entry is written with a "?"')
        return key[0], key, self._offsets(self._source.values[full])

    def _siblings(self, parent: str) -> list[str]:
        data = self._data(parent)
        assert isinstance(data, dict)
        return [f"{parent}/{escape_token(key)}" for key in data]

    def _data(self, full: str) -> Any:
        data = self._source.data
        for token in pointer_tokens(full):
            data = data[int(token)] if isinstance(data, list) else data[token]
        return data

    def _key_start(self, full: str) -> int:
        return self._offsets(self._source.keys[full])[0]

    def _owner_column(self, full: str) -> int:
        """Column of the key, or of the "-", that the value belongs to."""
        if full in self._source.keys:
            return self._column(self._key_start(full))
        start, _ = self._offsets(self._source.values[full])
        return self._column(self._text.text.rindex("-", 0, start))

    def _offsets(self, span: Span) -> tuple[int, int]:
        start = self._starts[span.line - 1] + span.column - 1
        end = self._starts[min(span.end_line, len(self._starts)) - 1] + span.end_column - 1
        return start, max(start, min(end, len(self._text.text)))

    def _column(self, offset: int) -> int:
        return offset - (self._text.text.rfind("\n", 0, offset) + 1)

    def _line_end(self, offset: int) -> int:
        """Offset of the line's end, in front of the line break."""
        found = self._text.text.find("\n", offset)
        return found if found >= 0 else len(self._text.text)

    def _comment_ranges(self, start: int, end: int) -> list[tuple[int, int]]:
        """Start and end of the comments between two offsets."""
        masked = list(self._text.text)
        scalars: list[Span] = list(self._source.keys.values())
        scalars += [
            span
            for pointer, span in self._source.values.items()
            if not isinstance(self._data(pointer), (dict, list))
        ]
        for span in scalars:
            first, last = self._offsets(span)
            if first < last and masked[first] in "|>":
                first = self._line_end(first)
            masked[first:last] = re.sub(r"[^\n]", "x", self._text.text[first:last])
        found = _COMMENT.finditer("".join(masked))
        return [m.span() for m in found if start <= m.start() < end]

    def _comments_between(self, start: int, end: int) -> list[Traced]:
        return [self._text.part(*each) for each in self._comment_ranges(start, end)]


def _reindented(piece: _Piece, column: int) -> Traced:
    """The value's later lines moved as far as the key."""
    first, *rest = piece.value.lines() or [NONE]
    if piece.column < 0:
        return joined([first, *(_at_column(each, column + 2 * STEP) for each in rest)])
    return joined([first, *(each.shifted(column - piece.column) for each in rest)])


def _at_column(line: Traced, column: int) -> Traced:
    """A line of a value in brackets, at this column."""
    body = line.part(len(line.text) - len(line.text.lstrip(" ")))
    return body.shifted(column)


def _parent(pointer: str) -> str:
    return pointer.rpartition("/")[0]


def _line_starts(text: str) -> list[int]:
    return [0, *accumulate(len(line) + 1 for line in text.split("\n"))][:-1]


def _line_and_column(starts: list[int], offset: int) -> tuple[int, int]:
    line = bisect_right(starts, offset)
    return line, offset - starts[line - 1] + 1
