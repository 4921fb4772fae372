"""What a synthesis starts from: questions and answers of seed rows, parts of documents.

Deterministic: files in the order of the recipe, rows and parts in the order of the file.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from runner.errors import RecipeInvalid, RecipeToolError, StageFailed, UsageError
from runner.report.printable import escaped
from runner.rows.opening import opened
from runner.scripts.data.conversation import Conversation, Message
from runner.scripts.data.convert import read_one
from runner.scripts.data.files.packed_files import PARQUET, unpacked
from runner.scripts.data.files.rows import MAX_SHOWN, Place, Problem, RowError, read_rows
from runner.scripts.data.formats import FIELDS, FORMATS
from runner.synthesis.settings import Document, RowFile, Settings
from runner.system.regular import NotReadable, open_regular

MAX_DOCUMENT_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Seed:
    """The first question of a row and the answer to it. `place` is FILE:LINE.

    `answer` is "" where a kind needs none and the row has none.
    """

    question: str
    answer: str
    place: str


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a document. `place` is FILE:LINE of its first line."""

    text: str
    place: str


def seeds_of(settings: Settings) -> list[Seed]:
    """Every seed row. Raises RecipeInvalid (E911) when one cannot be read, or there is none."""
    seeds: list[Seed] = []
    problems = []
    for number, file in enumerate(settings.rows):
        pointer = f"/rows/{number}/path"
        before = len(seeds)
        try:
            bad = _read_seeds(file, seeds, settings.kind)
        except OSError as error:
            bad = [(f"cannot read {file.name}: {error.strerror or error}", _to_inspect(file))]
        if not bad and len(seeds) == before:
            bad = [(f"{file.name} holds no rows", "name a file with rows")]
        problems += [
            settings.source.diagnostic("E911", pointer, escaped(message), hint=hint)
            for message, hint in bad
        ]
    if problems:
        raise RecipeInvalid(problems)
    return seeds


def _to_inspect(file: RowFile) -> str:
    words = ["recipe", "data", "inspect", os.path.normpath(file.path), "--from", file.format]
    return f"{shlex.join(words)} shows what is wrong"


class _NoSeed(RowError):
    """A row of its format that does not say what is needed of it."""


def _read_seeds(file: RowFile, seeds: list[Seed], kind: str) -> list[tuple[str, str]]:
    """Append the rows of `file`; what is wrong with bad ones, each time with what to do.

    Raises MachineCannot where what reads Parquet and zstd cannot be had.
    """
    try:
        with opened(file.path, FIELDS[file.format]) as plain:
            rows = islice(read_rows(plain.path, file.name), file.limit)
            return _added(rows, file, seeds, _asked if kind == "preference" else _answered)
    except (StageFailed, UsageError) as error:
        return [(error.message, _to_inspect(file))]


def _added(
    rows: Iterator[tuple[Place, dict[str, Any]] | Problem],
    file: RowFile,
    seeds: list[Seed],
    taken: Callable[[Sequence[Message], str], Seed],
) -> list[tuple[str, str]]:
    bad: dict[tuple[str, str], list[Place]] = {}
    for item in rows:
        try:
            if isinstance(item, Problem):
                raise item.error
            seeds.append(taken(_turns(item[1], file.format), str(item[0])))
        except RowError as error:
            place = item.place if isinstance(item, Problem) else item[0]
            hint = _TO_CORRECT if isinstance(error, _NoSeed) else _to_inspect(file)
            bad.setdefault((error.message, hint), []).append(place)
    return [*_told(bad, file)]


_TO_CORRECT = "correct these rows, or leave them out; `limit` takes the first rows alone"


def _told(bad: Mapping[tuple[str, str], list[Place]], file: RowFile) -> Iterator[tuple[str, str]]:
    """The first reasons, each with the lines of its first rows, and what to do."""
    for (message, hint), places in islice(bad.items(), MAX_SHOWN):
        lines = ", ".join(str(place.line) for place in places[:MAX_SHOWN])
        more = f" and {len(places) - MAX_SHOWN} more" if len(places) > MAX_SHOWN else ""
        alike = f" ({len(places)} rows: {lines}{more})" if len(places) > 1 else ""
        yield f"{places[0]}: {message}{alike}", hint
    if others := sum(map(len, islice(bad.values(), MAX_SHOWN, None))):
        yield f"{file.name}: {others} more rows cannot be used", _to_inspect(file)


def _turns(row: dict[str, Any], format_name: str) -> list[Message]:
    """Of what the row says, or asks; of a pair, the chosen. Raises RowError."""
    read = read_one(row, format_name)
    side = read if isinstance(read, Conversation) else read.sides[0][0]
    return [turn for turn in side.messages if turn["role"] != "system"]


def _answered(turns: Sequence[Message], place: str) -> Seed:
    """Of a row that must begin with a question and its answer. Raises RowError."""
    if [turn["role"] for turn in turns[:2]] != ["user", "assistant"]:
        raise _NoSeed("the row does not begin with a question and its answer")
    question, answer = (str(turn["content"]).strip() for turn in turns[:2])
    if not question or not answer:
        raise _NoSeed("the first question or answer is empty")
    return Seed(question, answer, place)


def _asked(turns: Sequence[Message], place: str) -> Seed:
    """Of a row that must begin with a question. Raises RowError."""
    if not turns or turns[0]["role"] != "user":
        raise _NoSeed("the row does not begin with a question")
    question = str(turns[0]["content"]).strip()
    if not question:
        raise _NoSeed("the first question is empty")
    return Seed(question, "", place)


def parts_of(settings: Settings) -> list[Part]:
    """Every part of every document. Raises RecipeInvalid (E910) when one cannot be read."""
    parts: list[Part] = []
    problems = []
    for number, document in enumerate(settings.documents):
        try:
            found = list(_parts_of(document, settings.own["chunk"]))
            if not found:
                raise NotReadable("it holds no text")
            parts += found
        except (NotReadable, OSError, RowError, StageFailed, UsageError) as error:
            message = escaped(f"{document.name}: {_said(error)}")
            hint = "name a text file in UTF-8, or Parquet whose rows have a `text`"
            where = f"/documents/{number}"
            problems.append(settings.source.diagnostic("E910", where, message, hint=hint))
    if problems:
        raise RecipeInvalid(problems)
    return parts


def _said(error: Exception) -> str:
    if isinstance(error, RowError | RecipeToolError):
        return error.message
    return getattr(error, "strerror", None) or str(error)


def _parts_of(document: Document, size: int) -> Iterator[Part]:
    """Of one text, compressed or not, or of the texts in the rows of Parquet.

    Raises NotReadable, RowError, StageFailed, UsageError and MachineCannot.
    """
    with open_regular(document.path) as file:
        is_parquet = file.read(len(PARQUET)) == PARQUET
    with opened(document.path, FIELDS["text"]) as plain:
        if not is_parquet:
            yield from cut(_text(plain.path), document.name, size)
            return
        for item in read_rows(plain.path, document.name):
            if isinstance(item, Problem):
                raise item.error
            place, row = item
            text = FORMATS["text"](row).text or ""
            yield from (Part(part.text, str(place)) for part in cut(text, document.name, size))


def _text(path: Path) -> str:
    with open_regular(path) as file, unpacked(file) as plain:
        content = plain.read(MAX_DOCUMENT_BYTES + 1)
    if len(content) > MAX_DOCUMENT_BYTES:
        raise NotReadable(f"it has more than {MAX_DOCUMENT_BYTES} bytes")
    try:
        text = content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise NotReadable(f"line {line} is not UTF-8") from None
    if "\0" in text:
        raise NotReadable("it is no text: it holds a zero byte")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def cut(text: str, name: str, size: int) -> Iterator[Part]:
    """`text` in parts of at most `size` characters.

    Cut between paragraphs; inside of one that is too long alone, at the end of a sentence or word.
    A heading begins a new part once the part before is half full.
    """
    held: list[str] = []
    start = line = 1
    for paragraph, line in _paragraphs(text, size):
        length = sum(map(len, held)) + 2 * len(held)
        heading = paragraph.startswith("#") and length > size // 2
        if held and (heading or length + len(paragraph) > size):
            yield Part("\n\n".join(held), f"{name}:{start}")
            held = []
        if not held:
            start = line
        held.append(paragraph)
    if held:
        yield Part("\n\n".join(held), f"{name}:{start}")


def _paragraphs(text: str, size: int) -> Iterator[tuple[str, int]]:
    """Paragraphs of at most `size` characters, and the line in which each begins."""
    line, counted = 1, 0
    for match in re.finditer(r"[^\n]+(?:\n[^\S\n]*[^\s][^\n]*)*", text):
        position, end = match.span()
        while position < end:
            after = position + _length_of_piece(
                text[position : min(end, position + size + 1)], size
            )
            if piece := text[position:after].strip():
                line, counted = line + text.count("\n", counted, position), position
                yield piece, line
            position = after


def _length_of_piece(text: str, size: int) -> int:
    if len(text) <= size:
        return len(text)
    head = text[:size]
    for pattern in (r"(?s).*[.!?]\s", r"(?s).*\s"):
        found = re.match(pattern, head)
        if found and found.end() > size // 2:
            return found.end()
    return size
