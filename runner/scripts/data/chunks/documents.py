"""The tokens of one split: made in chunks, kept in files until the whole is known, written at once.

Memory: about 150 bytes a row for digests and lengths; ids and masks are on disk.
"""

from __future__ import annotations

import pickle
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from runner.scripts.data.chunks.chunk import Chunk, Counts, Making, tokenised
from runner.scripts.data.chunks.spool import Files, Part
from runner.scripts.data.chunks.stored import StoredRows
from runner.scripts.data.chunks.workers import Workers
from runner.scripts.data.cleaning.report import excerpt
from runner.scripts.data.dividing.facts import Facts
from runner.scripts.weights.floats import Array
from runner.scripts.weights.safetensors_stream import SafetensorsWriter, TensorSpec

BLOCK = 1 << 20  # tokens that are copied at a time
_KINDS = {"int32": "I32", "int64": "I64", "int8": "I8", "uint8": "U8"}
# of Chunk: one number, or text, a document or a row
_KEPT = ("lengths", "trained", "preferred", "row_lengths", "sources", "digests", "prompts")
_EMPTY: dict[str, Any] = {"preferred": np.int8, "digests": "S64", "prompts": "S64"}


class Documents:
    """Tokenised rows of one split, in their order, and what happened to the others."""

    def __init__(self, files: Files, name: str) -> None:
        self.ids = files.column(f"{name}.ids", np.int32)
        self.mask = files.column(f"{name}.mask", np.int8)
        self.counts = Counts()
        self._rows = files.spool(f"{name}.documents")
        self._parts: dict[str, list[Array]] = {field: [] for field in _KEPT}

    def add(self, chunk: Chunk) -> None:
        """The rows that follow."""
        self.ids.extend(chunk.ids)
        self.mask.extend(chunk.mask)
        for row in chunk.rows:
            self._rows.append(pickle.dumps(row, pickle.HIGHEST_PROTOCOL))
        for field, parts in self._parts.items():
            parts.append(getattr(chunk, field))
        self.counts.add(chunk.counts)

    def column(self, field: str) -> Array:
        """One of the arrays of a Chunk, of all rows."""
        parts = self._parts[field]
        if len(parts) != 1:
            whole = np.concatenate(parts) if parts else np.empty(0, _EMPTY.get(field, np.int32))
            parts[:] = [whole]
        return parts[0]

    @property
    def row_count(self) -> int:
        """Rows that can be used."""
        return len(self.column("sources"))

    def rows(self) -> StoredRows[Any]:
        """The rows as they were made into documents, where a Making keeps them."""
        digests = self.column("digests")
        return StoredRows(self._rows, Facts(self.column("sources"), digests, digests))


def made(
    rows: StoredRows[Any], making: Making, documents: Documents, crew: Workers
) -> Iterator[int]:
    """Add all the rows to `documents`; how many are done, from time to time."""
    count = 0
    for rows_done, chunk in crew.each(partial(_made_of_part, making=making), rows.parts()):
        documents.add(chunk)
        count += rows_done
        yield count


def _made_of_part(part: Part, making: Making) -> tuple[int, Chunk]:
    rows = part.rows()
    return len(rows), tokenised(rows, making)


# --- the file of tokens


def write_tokens(
    path: Path,
    documents: Documents,
    packs: list[list[int]] | None,
    more: Mapping[str, Array] = MappingProxyType({}),
) -> None:
    """input_ids int32, labels_mask int8, offsets int64 [rows + 1], and `more`; packed:
    position_ids int32, from 0 in every document, and document_offsets int64."""
    lengths = documents.column("lengths")
    ends = _offsets(lengths)
    order = np.arange(len(lengths)) if packs is None else _flat(packs)
    offsets = ends
    if packs is not None:
        offsets = _offsets(np.array([lengths[members].sum() for members in packs], np.int64))
    small = {"offsets": offsets}
    if packs is not None:
        small["document_offsets"] = _offsets(lengths[order])
    small |= more
    total = int(ends[-1])
    large = {"input_ids": "I32", "labels_mask": "I8"} | (
        {} if packs is None else {"position_ids": "I32"}
    )
    specs = [TensorSpec(name, kind, (total,)) for name, kind in large.items()]
    specs += [
        TensorSpec(name, _KINDS[values.dtype.name], values.shape) for name, values in small.items()
    ]
    with SafetensorsWriter(path, specs) as writer:
        for name, values in small.items():
            writer.write(name, values)
        for begin, end in _blocks(ends, order, packs is not None):
            writer.write("input_ids", documents.ids.read(begin, end))
            writer.write("labels_mask", documents.mask.read(begin, end))
            if packs is not None:
                writer.write("position_ids", np.arange(end - begin, dtype=np.int32))


def _blocks(ends: Array, order: Array, packed: bool) -> Iterator[tuple[int, int]]:
    """Ranges of tokens in the order in which they are written: documents, or as much as may be."""
    if packed:
        yield from ((int(ends[index]), int(ends[index + 1])) for index in order)
        return
    total = int(ends[-1])
    yield from ((begin, min(begin + BLOCK, total)) for begin in range(0, total, BLOCK))


def _offsets(lengths: Array) -> Array:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])


def _flat(packs: Iterable[Sequence[int]]) -> Array:
    return np.fromiter((index for members in packs for index in members), np.int64)


# --- counts


def statistics_of(documents: Documents) -> dict[str, Any]:
    """Counts for run.json, of any kind of rows."""
    lengths, counts = documents.column("lengths"), documents.counts
    total, trained = int(lengths.sum()), int(documents.column("trained").sum())
    found: dict[str, Any] = {
        "rows": documents.row_count,
        "duplicates": documents.row_count - len(np.unique(documents.column("digests"))),
        "tokens": {"total": total, "trained": trained, "context": total - trained},
        "truncated": counts.truncated,
        "dropped": dict(sorted(counts.dropped.items())),
    }
    if counts.examples:
        found["examples"] = dict(sorted(counts.examples.items()))
        found["excerpts"] = {why: excerpt(text) for why, text in sorted(counts.texts.items())}
    if len(lengths):
        found["length"] = {
            "min": int(lengths.min()),
            "median": statistics.median(lengths.tolist()),
            "max": int(lengths.max()),
        }
    return found


def in_both(one: Documents, other: Documents) -> int:
    """How many prompts (of rows that are not compared: contents) both splits have."""
    return len(np.intersect1d(one.column("prompts"), other.column("prompts")))
