"""The tokens of one split: made in chunks, kept in files until the whole is known, written at once.

Memory: what is made of a column of numbers while it is needed; all columns are on disk.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from runner.scripts.data.chunks.chunk import Chunk, Counts, Making, Notes, tokenised
from runner.scripts.data.chunks.digests import Digests, ordered, words_of
from runner.scripts.data.chunks.spool import Files, Part
from runner.scripts.data.chunks.stored import StoredRows
from runner.scripts.data.chunks.workers import Workers
from runner.scripts.data.cleaning.report import excerpt
from runner.scripts.data.dividing.facts import Facts
from runner.scripts.data.tokens.packing import Packs
from runner.scripts.weights.floats import Array
from runner.scripts.weights.safetensors_stream import SafetensorsWriter, TensorSpec

BLOCK = 1 << 20  # tokens that are copied at a time
_KINDS = {"int32": "I32", "int64": "I64", "int8": "I8", "uint8": "U8"}
# of Chunk: one number a document or a row
_KEPT: dict[str, Any] = dict.fromkeys(("lengths", "trained", "row_lengths", "sources"), np.int32)
_KEPT["preferred"] = np.int8


class Documents:
    """Tokenised rows of one split, in their order, and what happened to the others."""

    def __init__(self, files: Files, name: str) -> None:
        self.ids = files.column(f"{name}.ids", np.int32)
        self.mask = files.column(f"{name}.mask", np.int8)
        self.counts = Counts()
        self._rows = files.spool(f"{name}.documents")
        self._columns = {
            field: files.column(f"{name}.{field}", kind) for field, kind in _KEPT.items()
        }
        self._digests = files.column(f"{name}.digests", np.uint64)
        self._prompts = files.column(f"{name}.prompts", np.uint64)

    def add(self, chunk: Chunk) -> None:
        """The rows that follow."""
        self.ids.extend(chunk.ids)
        self.mask.extend(chunk.mask)
        for row in chunk.rows:
            self._rows.append(pickle.dumps(row, pickle.HIGHEST_PROTOCOL))
        for field, column in self._columns.items():
            column.extend(getattr(chunk, field))
        for digests, texts in ((self._digests, chunk.digests), (self._prompts, chunk.prompts)):
            digests.extend(words_of(texts.tobytes().decode()).reshape(-1))
        self.counts.add(chunk.counts)

    def column(self, field: str) -> Array:
        """One of the arrays of numbers of a Chunk, of all rows; read anew each time."""
        return self._columns[field].whole()

    @property
    def digests(self) -> Digests:
        """Of the content of each row."""
        return Digests(self._digests)

    @property
    def prompts(self) -> Digests:
        """Of what each row answers."""
        return Digests(self._prompts)

    @property
    def row_count(self) -> int:
        """Rows that can be used."""
        return self._columns["sources"].count

    def rows(self) -> StoredRows[Any]:
        """The rows as they were made into documents, where a Making keeps them."""
        return StoredRows(self._rows, Facts(self.column("sources"), self.digests, self.digests))


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
    packs: Packs | None,
    more: Mapping[str, Array] = MappingProxyType({}),
) -> None:
    """input_ids int32, labels_mask int8, offsets int64 [rows + 1], and `more`; packed:
    position_ids int32, from 0 in every document, and document_offsets int64."""
    lengths = documents.column("lengths")
    ends = _offsets(lengths)
    small = {"offsets": ends}
    if packs is not None:
        small["document_offsets"] = _offsets(lengths[packs.order])
        small["offsets"] = small["document_offsets"][packs.ends]
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
        for begin, end in _blocks(ends, packs):
            writer.write("input_ids", documents.ids.read(begin, end))
            writer.write("labels_mask", documents.mask.read(begin, end))
            if packs is not None:
                writer.write("position_ids", np.arange(end - begin, dtype=np.int32))


def _blocks(ends: Array, packs: Packs | None) -> Iterator[tuple[int, int]]:
    """Ranges of tokens in the order in which they are written: documents, or as much as may be."""
    if packs is not None:
        yield from ((int(ends[index]), int(ends[index + 1])) for index in packs.order)
        return
    total = int(ends[-1])
    yield from ((begin, min(begin + BLOCK, total)) for begin in range(0, total, BLOCK))


def _offsets(lengths: Array) -> Array:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])


# --- counts


def statistics_of(documents: Documents) -> dict[str, Any]:
    """Counts for run.json, of any kind of rows."""
    lengths, counts = documents.column("lengths"), documents.counts
    total, trained = int(lengths.sum()), int(documents.column("trained").sum())
    found: dict[str, Any] = {
        "rows": documents.row_count,
        "duplicates": documents.row_count - ordered(documents.digests).count,
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
            "median": _median(lengths),
            "max": int(lengths.max()),
        }
    return found


def notes_of(*splits: Documents) -> dict[str, Any]:
    """For run.json: how many rows are odd, such as one with a special token that the template
    writes (`special_text`), and the first of them; nothing without such rows."""
    found: dict[str, Notes] = {}
    for documents in splits:
        for name, notes in documents.counts.notes.items():
            found.setdefault(name, Notes()).add(notes)
    return {name: notes.measures() for name, notes in sorted(found.items())}


def _median(values: Array) -> float:
    """The one in the middle, or between the two that are."""
    values = np.sort(values)
    low, high = int(values[(len(values) - 1) // 2]), int(values[len(values) // 2])
    return high if len(values) % 2 else (low + high) / 2
