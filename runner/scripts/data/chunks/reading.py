"""Files of rows as rows on disk: read one after another, understood and cleaned by workers."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from runner.scripts.data.chunks.chunk import Counts
from runner.scripts.data.chunks.spool import Column, Files
from runner.scripts.data.chunks.stored import CHUNK, CHUNK_BYTES, StoredRows
from runner.scripts.data.chunks.workers import Workers, chunked
from runner.scripts.data.conversation import Traits
from runner.scripts.data.dividing.facts import Facts, Gathered, facts_of
from runner.scripts.data.dividing.kinship import Row
from runner.scripts.data.files.rows import Place, Problem, RowError, Unread, as_row, unread_rows
from runner.scripts.spec import ScriptError, Spec
from runner.scripts.weights.floats import Array

if TYPE_CHECKING:
    from runner.scripts.data.cleaning.pipeline import Cleaning

# A row of a file as what is learnt from; its arguments as of `Reading.understand`.
Understand = Callable[[dict[str, Any], Mapping[str, Any], "Reading"], Row]


@dataclass(frozen=True)
class Reading:
    """How rows of files are understood. `understand` and `plain` are functions of a module.

    `split`: whose columns rows must have (data/dividing/division.py). `steps`: of cleaning, None
    for rows as they are.
    """

    understand: Understand
    plain: Callable[[Any], str]
    settings: Mapping[str, Any]
    split: Mapping[str, Any] = field(default_factory=dict)
    steps: Mapping[str, Any] | None = None

    @property
    def orders_turns(self) -> bool:
        """Are rows to be read whose turns do not alternate?"""
        return self.steps is not None and "alternation" in self.steps


@dataclass
class Understood:
    """What became of a chunk of a file."""

    records: list[bytes] = field(default_factory=list)
    facts: Facts = field(default_factory=partial(facts_of, (), str, {}))
    bad: Counts = field(default_factory=Counts)  # rows that could not be read
    broken: Counts = field(default_factory=Counts)  # rows that could not be cleaned
    read: int = 0  # rows that were cleaned, and what else cleaning says
    told: dict[str, Any] = field(default_factory=dict)
    positions: list[int] = field(default_factory=list)
    signatures: Array | None = None  # [rows, bands]


def read_rows_of(
    spec: Spec,
    kind: str,
    reading: Reading,
    cleaning: Cleaning | None,
    files: Files,
    crew: Workers,
    bad: Counts,
) -> StoredRows[Any]:
    """Rows of all files of a `kind` (train, validation) in order, cleaned; the others go to `bad`.

    Raises ScriptError E324 for a file without rows.
    """
    spool, facts, broken = files.spool(f"{kind}.rows"), Gathered(files, kind), Counts()
    compared = Compared(files, kind, cleaning)
    for number, file in enumerate(spec.hashed[kind]):
        rows = unread_rows(spec.inputs[file["input"]], file["name"])
        work = partial(understood, file=file, number=number, reading=reading)
        seen = 0
        for found in crew.each(work, chunked(rows, CHUNK, CHUNK_BYTES, _length)):
            for record in found.records:
                spool.append(record)
            facts.add(found.facts)
            bad.add(found.bad)
            broken.add(found.broken)
            compared.add(found)
            seen += len(found.records) + found.read + found.bad.unusable
        if not seen:
            raise ScriptError(
                f"{file['name']} holds no rows",
                hint="name a file with rows in data, or leave it out",
                code="E324",
            )
    bad.add(broken)
    return compared.left(StoredRows(spool, facts.whole()))


class Compared:
    """What is needed to compare cleaned rows, on disk where it is much."""

    def __init__(self, files: Files, kind: str, cleaning: Cleaning | None) -> None:
        self._cleaning = cleaning
        self._positions = files.column(f"{kind}.positions", np.int64)
        self._bands: list[Column] = []
        if cleaning and cleaning.compares_nearly:
            from runner.scripts.data.cleaning.duplicates import BANDS

            names = (f"{kind}.band-{number}" for number in range(BANDS))
            self._bands = [files.column(name, np.uint64) for name in names]

    def add(self, found: Understood) -> None:
        """The rows that follow."""
        if self._cleaning is None:
            return
        before = self._cleaning.add(found.told, found.read)
        self._positions.extend(np.array(found.positions, np.int64) + before)
        if found.signatures is not None:
            for column, band in zip(self._bands, found.signatures.T, strict=True):
                column.extend(band)

    def left(self, rows: StoredRows[Any]) -> StoredRows[Any]:
        """The rows that are not there before."""
        if self._cleaning is None:
            return rows
        return rows.take(self._cleaning.compared(rows, self._positions, self._bands))


def understood(
    items: list[Unread], file: Mapping[str, Any], number: int, reading: Reading
) -> Understood:
    """The rows of a chunk of a file, the `number`-th of its kind. Pure."""
    found = Understood()
    rows = list(rows_in(items, file, number, reading, found.bad))
    if reading.steps is not None:
        rows = _cleaned(rows, reading.steps, found)
    found.facts = facts_of(rows, reading.plain, reading.settings)
    found.records = [pickle.dumps(row, pickle.HIGHEST_PROTOCOL) for row in rows]
    return found


def _cleaned(rows: list[Row], steps: Mapping[str, Any], found: Understood) -> list[Row]:
    from runner.scripts.data.cleaning.duplicates import signatures_of
    from runner.scripts.data.cleaning.pipeline import Cleaning

    cleaning = Cleaning(steps)
    sound = cleaning.row_by_row(rows)
    for problem in sound.problems:
        found.broken.refuse(problem)
    found.read, found.told, found.positions = cleaning.read, cleaning.told, sound.positions
    if cleaning.compares_nearly:
        found.signatures = signatures_of(sound.rows)
    return sound.rows


def rows_in(
    items: list[Unread], file: Mapping[str, Any], number: int, reading: Reading, bad: Counts
) -> Iterator[Row]:
    """The rows that can be used or cleaned; the others go to `bad`."""
    from runner.scripts.data.dividing.kinship import traits_of

    for item in items:
        found = as_row(item, file["name"], file.get("columns"))
        if isinstance(found, Problem):
            bad.refuse(found)
            continue
        place, values = found
        try:
            row = reading.understand(values, file, reading)
            traits = traits_of(values, number, file.get("columns"), reading.split)
        except RowError as error:
            bad.refuse(Problem(place, error))
            continue
        yield placed(row, place, traits)


def placed(row: Any, place: Place, traits: Traits) -> Any:
    """The row, standing at `place` in its file, with what that says of it."""
    if hasattr(row, "at"):  # a row of several sides, each of which stands there
        return replace(row.at(place), traits=traits)
    return replace(row, place=place, traits=traits)


def _length(value: Any) -> int:
    """Characters of the texts in a value, about: what it takes to hold it."""
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, dict):
        return 64 + sum(map(_length, value.values()))
    return sum(map(_length, value)) if isinstance(value, list | tuple) else 8
