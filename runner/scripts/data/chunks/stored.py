"""Rows that lie in a spool, to be taken, gone through or handed to workers in chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar, cast, overload

import numpy as np

from runner.scripts.data.chunks.spool import Part, Spool
from runner.scripts.data.chunks.workers import chunked
from runner.scripts.data.dividing.facts import Facts, facts_of
from runner.scripts.data.dividing.kinship import Row
from runner.scripts.weights.floats import Array

CHUNK = 256  # rows that are worked on at a time
CHUNK_BYTES = 1 << 20  # of rows in files: what makes a chunk smaller where rows are long
R = TypeVar("R", bound=Row)


class StoredRows(Sequence[R], Generic[R]):
    """Rows of a spool in an order of their own, and their facts in the same order."""

    def __init__(self, spool: Spool, facts: Facts, indexes: Array | None = None) -> None:
        self.spool, self.facts = spool, facts
        self._indexes = np.arange(len(spool)) if indexes is None else indexes

    def __len__(self) -> int:
        return len(self._indexes)

    @overload
    def __getitem__(self, index: int) -> R: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[R]: ...

    def __getitem__(self, index: int | slice) -> R | Sequence[R]:
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        return cast(R, self.spool.part([int(self._indexes[index])]).rows()[0])

    def __iter__(self) -> Iterator[R]:
        for part in self.parts():
            yield from part.rows()

    def parts(self) -> Iterator[Part]:
        """Chunks of the rows, for a worker to read: of CHUNK rows, or of CHUNK_BYTES."""
        weighed = ((index, self.spool.size(index)) for index in map(int, self._indexes))
        for chunk in chunked(weighed, CHUNK, CHUNK_BYTES, lambda item: item[1]):
            yield self.spool.part([index for index, _ in chunk])

    def take(self, indexes: Array) -> StoredRows[R]:
        """The rows at `indexes`, in their order."""
        return StoredRows(self.spool, self.facts.take(indexes), self._indexes[indexes])


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
