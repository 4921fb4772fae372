"""Files of rows as rows on disk: read one after another, understood and cleaned by workers."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.scripts.data.chunk import Counts
from runner.scripts.data.facts import Facts, facts_of, joined
from runner.scripts.data.kinship import Row
from runner.scripts.data.rows import Place, Problem, RowError, read_rows
from runner.scripts.data.spool import Spool
from runner.scripts.data.stored import CHUNK, StoredRows
from runner.scripts.data.workers import Crew, chunked
from runner.scripts.spec import ScriptError, Spec

if TYPE_CHECKING:
    from runner.scripts.data.cleaning.pipeline import Cleaning

Item = tuple[Place, dict[str, Any]] | Problem
# A row of a file as what is learnt from; its arguments as of `Reading.understand`.
Understand = Callable[[dict[str, Any], Mapping[str, Any], "Reading"], Row]


@dataclass(frozen=True)
class Reading:
    """How rows of files are understood. `understand` and `plain` are functions of a module.

    `split`: whose columns rows must have (data/division.py). `steps`: of cleaning, None for rows
    as they are.
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

    records: list[bytes]
    facts: Facts
    bad: Counts


def read_rows_of(
    spec: Spec,
    kind: str,
    reading: Reading,
    cleaning: Cleaning | None,
    folder: Path,
    crew: Crew,
    bad: Counts,
) -> StoredRows[Any]:
    """Rows of all files of a `kind` (train, validation) in order, cleaned; the others go to `bad`.

    Raises ScriptError E324 for a file without rows.
    """
    spool, facts = Spool(folder / f"{kind}.rows"), []
    for number, file in enumerate(spec.hashed[kind]):
        before = len(spool), bad.unusable
        chunks = chunked(
            read_rows(spec.inputs[file["input"]], file["name"], file.get("columns")), CHUNK
        )
        work = partial(understood, file=file, number=number, reading=reading)
        for found in crew.each(work, chunks):
            for record in found.records:
                spool.append(record)
            facts.append(found.facts)
            bad.add(found.bad)
        if (len(spool), bad.unusable) == before:
            raise ScriptError(
                f"{file['name']} holds no rows",
                hint="name a file with rows in data, or leave it out",
                code="E324",
            )
    rows: StoredRows[Any] = StoredRows(spool, joined(facts))
    return rows


def understood(
    items: list[Item], file: Mapping[str, Any], number: int, reading: Reading
) -> Understood:
    """The rows of a chunk of a file, the `number`-th of its kind. Pure."""
    bad = Counts()
    rows = list(rows_in(items, file, number, reading, bad))
    facts = facts_of(rows, reading.plain, {"split": reading.settings.get("split", {})})
    return Understood([pickle.dumps(row, pickle.HIGHEST_PROTOCOL) for row in rows], facts, bad)


def rows_in(
    items: list[Item], file: Mapping[str, Any], number: int, reading: Reading, bad: Counts
) -> Iterator[Row]:
    """The rows that can be used or cleaned; the others go to `bad`."""
    from runner.scripts.data.kinship import traits_of

    for item in items:
        if isinstance(item, Problem):
            bad.refuse(item)
            continue
        place, values = item
        try:
            row = reading.understand(values, file, reading)
            traits = traits_of(values, number, file.get("columns"), reading.split)
        except RowError as error:
            bad.refuse(Problem(place, error))
            continue
        yield replace(at(row, place), traits=traits)


def at(row: Any, place: Place) -> Any:
    """The row, standing at `place`."""
    return row.at(place) if hasattr(row, "at") else replace(row, place=place)
