"""A file of rows as one of another format, a row at a time. Standard library only."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

from runner.scripts.data.conversation import Conversation, check_turns
from runner.scripts.data.files.numbers import loses_digits
from runner.scripts.data.files.packed_files import bare_name
from runner.scripts.data.files.rows import (
    MAX_SHOWN,
    Place,
    Problem,
    RowError,
    checked_value,
    read_rows,
)
from runner.scripts.data.files.tables import JSON_COLUMNS, separator_of, typed
from runner.scripts.data.formats import EVERY, FIELDS
from runner.scripts.data.kinds import Columns, Kind, with_texts
from runner.scripts.data.preference import check_compared
from runner.scripts.data.prompted import Prompted, check_prompted
from runner.scripts.data.writing import CannotHold, Read, as_json, as_rows

Row = dict[str, Any]


@dataclass
class Converted:
    """What became of the rows of a file."""

    read: int = 0
    written: int = 0
    problems: list[Problem] = field(default_factory=list)  # the first ones
    unreadable: int = 0
    lost: dict[str, tuple[int, Place]] = field(default_factory=dict)  # what -> rows, the first
    unfit: dict[str, tuple[int, Place]] = field(default_factory=dict)  # why -> rows, the first
    by_file: set[str] = field(default_factory=set)  # of both: the kind of file cannot hold it
    kinds: dict[str, Kind] | None = None  # of columns: of rows that are to become Parquet
    not_held: list[Row] = field(default_factory=list)  # the first rows that the format loses of

    def holders(self, source: str) -> list[str]:
        """Formats that hold these first rows of format `source` without a loss."""
        others = [name for name in EVERY if name != source]
        return [name for name in others if all(_holds(row, source, name) for row in self.not_held)]


class CellCannotHold(CannotHold):
    """The format has a place for it, but the cells of a table have none."""


KEPT_TO_ASK = 10  # rows that were not held, of which it is asked what would hold them


def read_one(row: Row, format_name: str) -> Read:
    """A row of a format, with something to learn from. Raises RowError."""
    read = EVERY[format_name](row)
    if isinstance(read, Conversation):
        check_turns(read)
    elif isinstance(read, Prompted):
        check_prompted(read)
    else:
        check_compared(read)
    return read


def convert(
    path: Path,
    name: str,
    out: IO[bytes],
    out_name: str,
    source: str,
    target: str,
    columns: Mapping[str, str] | None = None,
) -> Converted:
    """Write the rows of `path`, called `name`, to `out`, in the shape of file that `out_name` says.
    Of Parquet, these are the JSON lines that it is made of.

    Rows that cannot be read, or have no place in the format, are left out and counted.
    """
    done = Converted()
    with writer_of(out, out_name, target, _extras(path, name, source, target, columns)) as writer:
        for item in read_rows(path, name, columns):
            if isinstance(item, Problem):
                _note(done, item)
                continue
            place, row = item
            done.read += 1
            losses: list[str] = []
            try:
                rows = _converted(row, source, target, losses)
                if losses:
                    _keep(done, row)
                by_file = [loss for each in rows for loss in writer.write(each)]
                done.by_file.update(by_file)
                losses += by_file
                done.written += len(rows)
            except RowError as error:
                _note(done, Problem(place, error))
                continue
            except CannotHold as error:
                _count(done.unfit, str(error), place)
                if isinstance(error, CellCannotHold):
                    done.by_file.add(str(error))
                else:
                    _keep(done, row)
                continue
            for loss in dict.fromkeys(losses):
                _count(done.lost, loss, place)
    done.kinds = writer.kinds()
    return done


def _keep(done: Converted, row: Row) -> None:
    if len(done.not_held) < KEPT_TO_ASK:
        done.not_held.append(row)


def _holds(row: Row, source: str, target: str) -> bool:
    losses: list[str] = []
    try:
        return bool(_converted(row, source, target, losses)) and not losses
    except CannotHold:
        return False


def _converted(row: Row, source: str, target: str, losses: list[str]) -> list[Row]:
    """The rows that one becomes; what they do not say is added to `losses`. Raises RowError and
    CannotHold."""
    rows = as_rows(read_one(row, source), target, losses)
    if source == target == "alpaca" and row.get("input"):  # one question, to every other format
        rows = [{**each, "instruction": row["instruction"], "input": row["input"]} for each in rows]
    answer = row.get("answer")
    if source == "prompt" and isinstance(answer, int | float):
        if target == "prompt":
            rows = [{**each, "answer": answer} for each in rows]
        else:
            losses.append("that the answer is a number: it becomes a text")
    kept: Row = {}
    for key, value in row.items():
        if key in FIELDS[source]:
            continue
        checked_value({key: value}, f'"{key}"')
        if key in FIELDS[target]:
            losses.append(f'the column "{key}"')
        else:
            kept[key] = value
    return [{**each, **kept} for each in rows]


def _extras(
    path: Path, name: str, source: str, target: str, columns: Mapping[str, str] | None
) -> list[str]:
    """Keys of the first row that no format reads: columns of a table that is written."""
    rows = (each for each in read_rows(path, name, columns) if not isinstance(each, Problem))
    _, first = next(rows, (None, {}))
    return [key for key in first if key not in FIELDS[source] and key not in FIELDS[target]]


def _note(done: Converted, problem: Problem) -> None:
    done.unreadable += 1
    if len(done.problems) < MAX_SHOWN:
        done.problems.append(problem)


def _count(counts: dict[str, tuple[int, Place]], what: str, place: Place) -> None:
    count, first = counts.get(what, (0, place))
    counts[what] = (count + 1, first)


# --- files


class _Lines:
    """JSON lines, or the items of a JSON list."""

    def __init__(self, out: IO[bytes], *, as_list: bool) -> None:
        self._out, self._as_list, self._rows = out, as_list, 0

    def write(self, row: Row) -> list[str]:
        """Raises CannotHold for what JSON cannot say."""
        text = as_json(row)
        if self._as_list:
            self._out.write(b"[\n" if not self._rows else b",\n")
        self._out.write(text.encode() + (b"" if self._as_list else b"\n"))
        self._rows += 1
        return []

    def close(self) -> None:
        if self._as_list:
            self._out.write(b"\n]\n" if self._rows else b"[]\n")

    def kinds(self) -> dict[str, Kind] | None:
        """A file of JSON has none."""
        return None


class _ForParquet(_Lines):
    """JSON lines that Parquet is made of, and of what kind their columns are."""

    def __init__(self, out: IO[bytes], read: Sequence[str]) -> None:
        super().__init__(out, as_list=False)
        self._read, self._columns = read, Columns(read)

    def write(self, row: Row) -> list[str]:
        """Raises CannotHold for what JSON cannot say."""
        as_json(row)
        made = with_texts(row, self._read)
        super().write(made)
        digits = [
            f'digits of numbers in the column "{key}", which floats do not hold'
            for key, value in made.items()
            if loses_digits(value)
        ]
        return [*self._columns.add(made), *digits]

    def kinds(self) -> dict[str, Kind]:
        """Of the columns."""
        return self._columns.kinds()


class _Table:
    """CSV or TSV: a column for each key that the format reads, and for those of the first row."""

    def __init__(
        self, out: IO[bytes], separator: str, read: Sequence[str], others: Sequence[str]
    ) -> None:
        self._read, self._columns = read, [*read, *others]
        # cells with a character of the line's end are quoted: readers take a bare "\r" for one
        self._writer = csv.writer(_Ends(out), delimiter=separator, lineterminator="\r\n")
        self._writer.writerow(self._columns)

    def write(self, row: Row) -> list[str]:
        """Raises CellCannotHold for what no cell can say."""
        row = self._with_system(row)
        cells = {key: _cell(key, row.get(key)) for key in self._columns}
        back = typed(cells)
        losses = [f'the column "{key}"' for key in row if key not in self._columns]
        absent = [key for key in self._columns if key not in row and key not in self._read]
        # an empty cell is a text
        losses += [f'that "{key}" is missing, which becomes an empty cell' for key in absent]
        for key, value in row.items():
            if key not in self._columns or back.get(key) == value:
                continue
            if key in self._read and not _is_number(value):
                raise CellCannotHold(f'a cell of a table cannot hold its "{key}"')
            losses.append(f'that "{key}" holds {_kinds_of(value)}')
        self._writer.writerow(list(cells.values()))
        return losses

    def _with_system(self, row: Row) -> Row:
        """With a system turn that stands before a question alone in the column for it."""
        turns = row.get("prompt")
        if "system" not in self._read or not isinstance(turns, list) or len(turns) != 2:
            return row
        roles = [turn["role"] for turn in turns if turn.keys() == {"role", "content"}]
        system, asked = (turn["content"] for turn in turns)
        if roles != ["system", "user"] or not system:
            return row
        return {**row, "system": system, "prompt": asked}

    def close(self) -> None:
        """Every row is written already."""

    def kinds(self) -> None:
        """A table has texts alone."""


class _Ends:
    """Where a csv.writer that ends lines by "\r\n" writes UTF-8 with lines that end by "\n"."""

    def __init__(self, out: IO[bytes]) -> None:
        self._out = out

    def write(self, line: str) -> int:
        return self._out.write(line.removesuffix("\r\n").encode() + b"\n")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _kinds_of(value: Any) -> str:
    """What is lost of a value of a cell."""
    if value is None:
        return "null, which becomes an empty cell"
    if isinstance(value, str):
        return "a text, which is read as something else"
    if isinstance(value, bool):
        return "true or false, which become texts"
    return f"{'numbers' if _is_number(value) else 'lists or objects'}, which become texts"


def _cell(key: str, value: Any) -> str:
    if value is None:
        return ""
    if key in JSON_COLUMNS:
        return as_json(value)
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) else as_json(value)


@contextmanager
def writer_of(
    out: IO[bytes], name: str, target: str, extras: Sequence[str]
) -> Iterator[_Lines | _Table]:
    """Writes rows to `out` as the file's name says: .json, .csv, .tsv, else JSON lines."""
    with _packed(out, name) as plain:
        separator = separator_of(name)
        if separator is not None:
            writer: _Lines | _Table = _Table(plain, separator, FIELDS[target], extras)
        elif name.lower().endswith(".parquet"):
            writer = _ForParquet(plain, FIELDS[target])
        else:
            writer = _Lines(plain, as_list=bare_name(name).endswith(".json"))
        yield writer
        writer.close()


@contextmanager
def _packed(out: IO[bytes], name: str) -> Iterator[IO[bytes]]:
    """Compressed as the name says, without a clock in it."""
    if name.lower().endswith(".gz"):
        import gzip

        with gzip.GzipFile(filename="", fileobj=out, mode="wb", mtime=0) as inner:
            yield cast(IO[bytes], inner)
    elif name.lower().endswith(".xz"):
        import lzma

        with lzma.LZMAFile(out, "wb") as inner:
            yield cast(IO[bytes], inner)
    else:
        yield out
