"""Footers of Parquet files, written here by hand: what they say, and hostile ones."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.recipe.checks.disk import count_rows
from runner.recipe.checks.parquet import KINDS, REQUIRED, sample_row
from runner.scripts.data.files.parquet_footer import (
    MAX_COLUMNS,
    Column,
    Footer,
    FooterError,
    Kind,
    read_footer,
)
from runner.scripts.data.files.rows import RowError
from runner.scripts.data.formats import EVERY, FIELDS
from tests.chain import ROOT

QUIZ = ROOT / "tests" / "recipes" / "data" / "quiz.parquet"
TEXT, BOOLEAN, INT32, INT64, BYTES = 0, 0, 1, 2, 6


@dataclass(frozen=True)
class Node:
    """One of the schema. `logical`: the number of its logical type."""

    name: str
    type: int | None = None
    children: tuple[Node, ...] = ()
    repetition: int = 1
    meaning: int | None = None
    logical: int | None = None

    def written(self) -> bytes:
        fields = [
            (1, None if self.type is None else integer(self.type), 5),
            (3, integer(self.repetition), 5),
            (4, unsigned(len(self.name.encode())) + self.name.encode(), 8),
            (5, integer(len(self.children)) if self.children else None, 5),
            (6, None if self.meaning is None else integer(self.meaning), 5),
            (10, None if self.logical is None else structure([(self.logical, b"\0", 12)]), 12),
        ]
        own = structure([field for field in fields if field[1] is not None])
        return own + b"".join(child.written() for child in self.children)

    def count(self) -> int:
        return 1 + sum(child.count() for child in self.children)


def unsigned(value: int) -> bytes:
    made = b""
    while value > 127:
        made += bytes([value & 127 | 128])
        value >>= 7
    return made + bytes([value])


def integer(value: int) -> bytes:
    return unsigned((value << 1) ^ (value >> 63))


def structure(fields: Sequence[tuple[int, bytes | None, int]]) -> bytes:
    made, last = b"", 0
    for number, value, kind in fields:
        made += bytes([(number - last) << 4 | kind]) + (value or b"")
        last = number
    return made + b"\0"


def text(name: str) -> Node:
    return Node(name, BYTES, meaning=TEXT)


def a_list(name: str, *entry: Node) -> Node:
    return Node(name, children=(Node("list", children=entry, repetition=2),), meaning=3)


def file_of(*columns: Node, rows: int = 3) -> bytes:
    root = Node("schema", children=columns, repetition=0)
    size = root.count()
    head = bytes([size << 4 | 12]) if size < 15 else bytes([0xFC]) + unsigned(size)
    footer = structure([(1, integer(2), 5), (2, head + root.written(), 9), (3, integer(rows), 6)])
    return packed(footer)


def packed(footer: bytes) -> bytes:
    return b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1"


def footer_in(content: bytes) -> Footer:
    return read_footer(io.BytesIO(content))


def test_columns_and_rows_are_read() -> None:
    turn = Node("element", children=(text("role"), text("content")))
    found = footer_in(
        file_of(
            text("instruction"),
            a_list("messages", turn),
            a_list("history", a_list("element", text("element"))),
            Node("label", BOOLEAN),
            Node("id", INT64, meaning=18),
            Node("at", INT64, logical=8),
            Node("picture", BYTES),
            Node("nothing", INT32, logical=11),
            Node("more", children=(Node("day", INT32, meaning=6),)),
            rows=1 << 40,
        )
    )
    assert found.rows == 1 << 40
    kinds = {column.name: column.kind for column in found.columns}
    assert kinds == {
        "instruction": Kind.TEXT,
        "messages": Kind.LIST,
        "history": Kind.LIST,
        "label": Kind.BOOL,
        "id": Kind.NUMBER,
        "at": Kind.NONE,
        "picture": Kind.NONE,
        "nothing": Kind.NULL,
        "more": Kind.OBJECT,
    }
    wrong = [column.name for column in found.columns if column.unwritable()]
    assert wrong == ["at", "picture", "more"]
    sample = sample_row(found.columns)
    assert [turn["role"] for turn in sample["messages"]] == ["user", "assistant"]
    assert sample["history"] == [["text", "text"]] * 2


def test_a_file_of_another_writer_is_read_the_same() -> None:
    found = footer_in(QUIZ.read_bytes())
    assert found.rows == 40
    assert [(column.name, column.kind) for column in found.columns] == [
        ("question", Kind.TEXT),
        ("answer", Kind.TEXT),
        ("picture", Kind.NONE),
    ]
    assert count_rows(QUIZ, 1) == 40


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"PAR1", "its end is missing"),
        (QUIZ.read_bytes()[:-1], "its end is missing"),
        (QUIZ.read_bytes()[:-4] + b"PARE", "encrypted"),
        (b"PAR1" + (1 << 31).to_bytes(4, "little") + b"PAR1", "its end is missing"),
        (packed(b""), "damaged"),
        (packed(b"\x29\xfc" + unsigned(MAX_COLUMNS + 1)), "more than"),
        (packed(b"\x29\xfc" + b"\xff" * 20), "damaged"),
        (packed(b"\x1c" * 100_000), "damaged"),  # structures in structures
        (packed(b"\x19\x99" * 100_000), "damaged"),
        (file_of(text("a"), rows=-1), "damaged"),
        (file_of(Node("a", BYTES, meaning=0, children=(text("b"),) * 3))[:40] + b"PAR1", "missing"),
    ],
)
def test_a_hostile_footer_is_refused(content: bytes, words: str) -> None:
    with pytest.raises(FooterError, match=words):
        footer_in(content)


def test_a_schema_nested_without_end_is_refused() -> None:
    node = text("leaf")
    for _ in range(200):
        node = Node("group", children=(node,))
    with pytest.raises(FooterError, match="schema is damaged"):
        footer_in(file_of(node))


@given(st.binary(max_size=300), st.integers(0, 1000), st.integers(0, 255))
def test_whatever_the_bytes_it_is_a_footer_or_an_error(noise: bytes, at: int, byte: int) -> None:
    whole = bytearray(QUIZ.read_bytes())
    whole[at % len(whole)] = byte
    for content in (packed(noise), noise, bytes(whole)):
        try:
            assert footer_in(content).rows >= 0
        except FooterError:
            continue


def test_the_checks_know_what_formats_need() -> None:
    """Without a key in REQUIRED no row is of the format; the others may be null."""
    assert set(REQUIRED) == set(FIELDS)
    for name, fields in FIELDS.items():
        columns = [column(field) for field in fields if field not in ("history", "tools")]
        row = sample_row(columns)
        row |= {"rejected": "other"} if name == "preference" else {}
        EVERY[name](row)
        for field in fields:
            less = {**row, field: None}
            if field in REQUIRED[name]:
                with pytest.raises(RowError):
                    EVERY[name](less)
            elif (name, field) != ("preference", "prompt"):
                EVERY[name](less)


def column(field: str) -> Column:
    kind = KINDS[field][0]
    said = {"conversations": ("from", "value"), "messages": ("role", "content")}.get(field, ())
    parts = tuple(Column(each, Kind.TEXT) for each in said)
    return Column(field, kind, (Column("element", Kind.OBJECT, parts),) if parts else ())


def test_rows_in_a_file_that_is_no_parquet_are_counted_as_before(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b'{"text": "PAR1"}\n')
    assert count_rows(tmp_path / "a.parquet") == 1
