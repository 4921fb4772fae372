"""Rows that lie in a spool, to be taken, gone through or handed to workers in chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar, cast, overload

import numpy as np

from runner.scripts.data.chunks.digests import index_kind
from runner.scripts.data.chunks.spool import Part, Spool
from runner.scripts.data.chunks.workers import chunked
from runner.scripts.data.dividing.facts import Facts, facts_of
from runner.scripts.data.dividing.kinship import Row
from runner.scripts.weights.floats import Array

CHUNK = 256  # rows that are worked on at a time
CHUNK_BYTES = 1 << 20  # of rows in files: what makes a chunk smaller where rows are long
_LOOKED_UP = 16 * CHUNK  # rows whose places are asked for at a time
R = TypeVar("R", bound=Row)


class StoredRows(Sequence[R], Generic[R]):
    """Rows of a spool in an order of their own. `facts`: of all that are in the spool.

    Memory: 4 bytes a row, none where `indexes` is None: all rows as they are.
    """

    def __init__(self, spool: Spool, facts: Facts, indexes: Array | None = None) -> None:
        self.spool, self._facts = spool, facts
        self._indexes = indexes

    @property
    def facts(self) -> Facts:
        """Of these rows, in their order."""
        return self._facts if self._indexes is None else self._facts.take(self._indexes)

    @property
    def folder(self) -> Path:
        """Where there is room for what is made of them."""
        return self.spool.path.parent

    def __len__(self) -> int:
        return len(self.spool) if self._indexes is None else len(self._indexes)

    @overload
    def __getitem__(self, index: int) -> R: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[R]: ...

    def __getitem__(self, index: int | slice) -> R | Sequence[R]:
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        return cast(R, self.spool.part(self._at(np.array([range(len(self))[index]]))).rows()[0])

    def __iter__(self) -> Iterator[R]:
        for part in self.parts():
            yield from part.rows()

    def parts(self) -> Iterator[Part]:
        """Chunks of the rows, for a worker to read: of CHUNK rows, or of CHUNK_BYTES."""
        for chunk in chunked(self._places(), CHUNK, CHUNK_BYTES, lambda each: each[1] - each[0]):
            yield self.spool.part_at(chunk)

    def _places(self) -> Iterator[list[int]]:
        """Where in the spool each row begins and ends."""
        for begin in range(0, len(self), _LOOKED_UP):
            wanted = np.arange(begin, min(begin + _LOOKED_UP, len(self)))
            yield from self.spool.places(self._at(wanted)).tolist()

    def take(self, indexes: Array) -> StoredRows[R]:
        """The rows at `indexes`, in their order."""
        kind = index_kind(len(self.spool))
        return StoredRows(self.spool, self._facts, self._at(indexes).astype(kind, copy=False))

    def _at(self, indexes: Array) -> Array:
        """Their numbers in the spool."""
        return indexes if self._indexes is None else self._indexes[indexes]


def taken(rows: Sequence[Any], indexes: Array | Iterable[int]) -> Sequence[Any]:
    """The rows at `indexes` of a list or of stored rows, as what they are."""
    if isinstance(rows, StoredRows):
        return rows.take(np.asarray(indexes, np.int64))
    return [rows[index] for index in indexes]


def facts_in(
    rows: Sequence[Any],
    plain: Callable[[Any], str] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Facts:
    """Those that stored rows bring; of others as `facts_of` finds them."""
    if isinstance(rows, StoredRows):
        return rows.facts
    return facts_of(rows, plain or (lambda row: str(row.digest())), settings or {})
