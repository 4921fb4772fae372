"""What the footer of a Parquet file says: how many rows there are, and of which columns.

Standard library only, so that checking a recipe needs no environment. The values themselves are
read by `runner/scripts/plain_rows`. A footer is Thrift's compact protocol: fields in their order,
the schema before the number of rows before everything that grows with the file, so a bounded part
of it is enough.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import IO, Any

from runner.scripts.data.files.packed_files import PARQUET

ENCRYPTED = b"PARE"
MAX_BYTES = 4 << 20  # of the footer that are looked at
MAX_COLUMNS = 10_000  # nodes of the schema, nested ones included
MAX_DEPTH = 60  # of nested columns, and of structures that are skipped


class FooterError(Exception):
    """Why the file is none that can be read, in words for the person who made it."""


class Kind(Enum):
    """What the values of a column are as JSON."""

    TEXT = "texts"
    BOOL = "true or false"
    NUMBER = "numbers"
    LIST = "lists"
    OBJECT = "objects"
    NULL = "nothing but null"
    NONE = "values that JSON has no kind for"


@dataclass(frozen=True, slots=True)
class Column:
    """A column, or a part of a nested one. A list has one part: its entries."""

    name: str
    kind: Kind
    parts: tuple[Column, ...] = ()

    def unwritable(self) -> bool:
        """Is there anything in it that JSON has no kind for?"""
        return self.kind is Kind.NONE or any(part.unwritable() for part in self.parts)


@dataclass(frozen=True, slots=True)
class Footer:
    """Of one file."""

    rows: int
    columns: tuple[Column, ...]


def read_footer(file: IO[bytes]) -> Footer:
    """Of a file that can be rewound. Raises FooterError, and OSError."""
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - 8))
    tail = file.read(8)
    if tail[4:] == ENCRYPTED:
        raise FooterError("it is encrypted")
    length = int.from_bytes(tail[:4], "little")
    if size < 12 or tail[4:] != PARQUET or length > size - 12:
        raise FooterError("its end is missing")
    file.seek(size - 8 - length)
    try:
        return _footer(_Reader(file.read(min(length, MAX_BYTES))))
    except (IndexError, KeyError, struct.error, UnicodeDecodeError, RecursionError):
        raise FooterError("its footer is damaged") from None


def _footer(reader: _Reader) -> Footer:
    nodes, rows = list[dict[int, Any]](), None
    for field, kind in reader.fields():
        if field == 2:
            nodes = [reader.node() for _ in range(reader.list_size(MAX_COLUMNS))]
        elif field == 3:
            rows = reader.integer()
            break
        else:
            reader.skip(kind)
    if not nodes or rows is None or rows < 0:
        raise FooterError("its footer is damaged")
    return Footer(rows, _columns(nodes))


def _columns(nodes: list[dict[int, Any]]) -> tuple[Column, ...]:
    """The tree of the schema, which is written depth first."""
    waiting = iter(nodes)
    root = next(waiting)
    return tuple(_column(waiting, 1) for _ in range(root.get(_CHILDREN, 0)))


def _column(nodes: Iterator[dict[int, Any]], depth: int) -> Column:
    node = next(nodes, None)
    if node is None or depth > MAX_DEPTH:
        raise FooterError("its schema is damaged")
    name = node[_NAME].decode("utf-8")
    parts = tuple(_column(nodes, depth + 1) for _ in range(node.get(_CHILDREN, 0)))
    column = Column(name, _kind(node), parts)
    if node.get(_MEANING) == _A_LIST and len(parts) == 1:
        return Column(name, Kind.LIST, (_entries(parts[0]),))
    if node.get(_MEANING) in _MAPS:
        return Column(name, Kind.OBJECT)  # of any keys
    return Column(name, Kind.LIST, (column,)) if node.get(_REPETITION) == _REPEATED else column


def _entries(group: Column) -> Column:
    """Of a list: its group in the middle repeats, and holds what one entry is."""
    inner = group.parts[0] if group.kind is Kind.LIST else group
    return inner.parts[0] if inner.kind is Kind.OBJECT and len(inner.parts) == 1 else inner


# Fields of a node of the schema, and values of them.
_TYPE, _REPETITION, _NAME, _CHILDREN, _MEANING, _LOGICAL = 1, 3, 4, 5, 6, 10
_REPEATED, _A_LIST, _MAPS = 2, 3, (1, 2)
_INTEGERS = frozenset(range(11, 19))
_BYTES = 6


def _kind(node: dict[int, Any]) -> Kind:
    kind, meaning = node.get(_TYPE), node.get(_MEANING)
    if node.get(_LOGICAL) == 11:
        return Kind.NULL
    if kind is None:
        return Kind.OBJECT
    if kind == 0:
        return Kind.BOOL
    if kind == _BYTES:
        return Kind.TEXT if meaning in (0, 4, 19) else Kind.NONE
    dated = meaning is None and node.get(_LOGICAL) in (5, 6, 7, 8)  # decimal, date, time, timestamp
    plain = meaning is None or meaning in _INTEGERS
    return Kind.NUMBER if kind in (1, 2, 4, 5) and plain and not dated else Kind.NONE


class _Reader:
    """Thrift's compact protocol, as far as a footer needs it. Raises IndexError at the end."""

    def __init__(self, content: bytes) -> None:
        self._content, self._at = content, 0

    def fields(self) -> Iterator[tuple[int, int]]:
        """Number and kind of each field of a structure; the caller reads or skips its value."""
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self.integer()
            yield number, head & 15

    def node(self) -> dict[int, Any]:
        """One of the schema: field -> value; of its logical type, which one it is."""
        found: dict[int, Any] = {}
        for field, kind in self.fields():
            if field == _NAME:
                found[field] = self._binary()
            elif field in (_TYPE, _REPETITION, _CHILDREN, _MEANING):
                found[field] = self.integer()
            elif field == _LOGICAL:
                for which, inner in self.fields():
                    found[field] = which
                    self.skip(inner)
            else:
                self.skip(kind)
        return found

    def list_size(self, most: int) -> int:
        """Of a list of structures; their values follow."""
        head = self._byte()
        size = head >> 4 if head >> 4 < 15 else self._unsigned()
        if size > most:
            raise FooterError(f"it has more than {most} columns")
        return size

    def integer(self) -> int:
        """Written in zigzag."""
        value = self._unsigned()
        return (value >> 1) ^ -(value & 1)

    def skip(self, kind: int, depth: int = 0) -> None:
        """A value of any kind."""
        if depth > MAX_DEPTH:
            raise FooterError("its footer is damaged")
        if kind in _SKIPPED:
            _SKIPPED[kind](self)
        elif kind in (9, 10):
            head = self._byte()
            size = head >> 4 if head >> 4 < 15 else self._unsigned()
            for _ in range(size):
                self.skip(head & 15 if head & 15 > 2 else 3, depth + 1)
        elif kind == 12:
            for _, inner in self.fields():
                self.skip(inner, depth + 1)
        else:
            raise FooterError("its footer is damaged")

    def _byte(self) -> int:
        self._at += 1
        return self._content[self._at - 1]

    def _unsigned(self) -> int:
        value = shift = 0
        while shift < 70:
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
        raise FooterError("its footer is damaged")

    def _binary(self) -> bytes:
        size = self._unsigned()
        self._at += size
        if self._at > len(self._content):
            raise IndexError
        return self._content[self._at - size : self._at]


_SKIPPED: dict[int, Callable[[_Reader], object]] = {
    1: lambda reader: None,  # true and false are in the kind itself
    2: lambda reader: None,
    3: _Reader._byte,
    4: _Reader.integer,
    5: _Reader.integer,
    6: _Reader.integer,
    7: lambda reader: [reader._byte() for _ in range(8)],
    8: _Reader._binary,
}
