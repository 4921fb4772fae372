"""Digests of rows: in a file, or in memory where they are few; compared by a sort on disk.

A digest is a sha256, 32 bytes, held as four numbers; its text is hexadecimal, and both have the
same order. Memory: what is told of each digest (a place in an order: 4 bytes), and RUN of them.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from runner.scripts.data.chunks.spool import Column
from runner.scripts.weights.floats import Array

RUN = 1 << 15  # digests that are sorted at a time
_MANY = 4  # times RUN: a range with so many probably is of copies
WORDS = 4  # numbers of a digest
_HEX = 64
_MOST_OF_32_BITS = (1 << 31) - 1


class Digests:
    """Digests in an order of their own. `words`: uint64 [n, width], or a Column of them.

    `where`: which of them these are, in their order; None for all. `width`: numbers of each; 1 for
    hashes of 64 bits, which have no text.
    """

    def __init__(
        self, words: Array | Column, where: Array | None = None, width: int = WORDS
    ) -> None:
        self._words, self._where, self.width = words, where, width

    @staticmethod
    def of(texts: Iterable[str]) -> Digests:
        """In memory, of hexadecimal texts."""
        return Digests(words_of("".join(texts)))

    def __len__(self) -> int:
        if self._where is not None:
            return len(self._where)
        return (
            self._words.count // self.width if isinstance(self._words, Column) else len(self._words)
        )

    def __iter__(self) -> Iterator[bytes]:
        for block in self.blocks():
            text = block.astype(">u8").tobytes().hex().encode()
            yield from (text[begin : begin + _HEX] for begin in range(0, len(text), _HEX))

    @property
    def folder(self) -> Path | None:
        """Where there is room for what is made of them; None: in memory."""
        return self._words.folder if isinstance(self._words, Column) else None

    def take(self, indexes: Array) -> Digests:
        """Those at `indexes`, in their order."""
        where = indexes if self._where is None else self._where[indexes]
        return Digests(self._words, where, self.width)

    def blocks(self) -> Iterator[Array]:
        """uint64 [RUN or the rest, width], one after another."""
        width = self.width
        for begin in range(0, len(self), RUN):
            end = min(begin + RUN, len(self))
            where = None if self._where is None else self._where[begin:end]
            if not isinstance(self._words, Column):
                yield self._words[begin:end] if where is None else self._words[where]
            elif where is None:
                yield self._words.rows(begin, end, width)
            else:
                yield self._words.gather(where, width)

    def hashed(self, begin: str) -> Digests:
        """The digest of each one's text behind `begin`; in a nameless file if these are in one."""
        start = hashlib.sha256(begin.encode())
        made = None if self.folder is None else Column.nameless(self.folder, np.uint64)
        parts = [np.empty((0, WORDS), np.uint64)]
        for block in self.blocks():
            hashes = []
            for text in Digests(block):
                each = start.copy()
                each.update(text)
                hashes.append(each.digest())
            words = _from_bytes(b"".join(hashes))
            if made is None:
                parts.append(words)
            else:
                made.extend(words.reshape(-1))
        return Digests(np.concatenate(parts) if made is None else made)


def words_of(text: str) -> Array:
    """uint64 [n, 4] of hexadecimal digests, one behind the other."""
    return _from_bytes(bytes.fromhex(text))


def _from_bytes(digests: bytes) -> Array:
    return np.frombuffer(digests, ">u8").astype(np.uint64).reshape(-1, WORDS)


# --- order


@dataclass(frozen=True)
class Ordered:
    """n digests in order. `order`: their indexes [n], equal ones as they came. `new`: bool [n], is
    it the first of its kind there?"""

    order: Array
    new: Array

    @property
    def count(self) -> int:
        """How many different ones there are."""
        return int(self.new.sum())

    def firsts(self) -> Array:
        """Of each different one, in order, the index where it is first."""
        return self.order[self.new]

    def lasts(self) -> Array:
        """And where it is last."""
        return self.order[np.append(self.new[1:], True)] if len(self.new) else self.order

    def copies(self) -> Array:
        """And how often it is there."""
        return np.diff(np.flatnonzero(np.append(self.new, True))).astype(self.order.dtype)

    def codes(self) -> Array:
        """Of each digest, as they came, the number of its kind."""
        found = np.empty_like(self.order)
        found[self.order] = np.cumsum(self.new, dtype=self.order.dtype) - 1
        return found


def ordered(*several: Digests) -> Ordered:
    """The order of some digests and of others behind them.

    What is more than RUN is sorted in runs, which lie in a nameless file beside the digests; they
    are merged by ranges of the digests' first bits, of which each run has few.
    """
    count = sum(map(len, several))
    width = several[0].width if several else WORDS
    folder = next((each.folder for each in several if each.folder), None)
    blocks = chain.from_iterable(each.blocks() for each in several)
    if count <= RUN or folder is None:
        return _at_once([np.empty((0, width), np.uint64), *blocks])
    order, new = np.empty(count, index_kind(count)), np.empty(count, bool)
    done, last = 0, None
    for merged in _merged(blocks, count, width, folder):
        end = done + len(merged)
        order[done:end] = merged[:, width]
        new[done:end] = _begins(merged[:, :width])
        if last is not None and (merged[0, :width] == last).all():
            new[done] = False
        done, last = end, merged[-1, :width].copy()
    assert done == count, (done, count)
    return Ordered(order, new)


def index_kind(count: int) -> type[np.signedinteger]:
    """What holds an index of that many."""
    return np.int32 if count <= _MOST_OF_32_BITS else np.int64


def _at_once(blocks: list[Array]) -> Ordered:
    words = np.concatenate(blocks)
    order = _sorted(words)
    return Ordered(order.astype(index_kind(len(order))), _begins(words[order]))


def _merged(blocks: Iterable[Array], count: int, width: int, folder: Path) -> Iterator[Array]:
    """Ranges of the digests, one after another and each in order: uint64 [n, width + 1], the last
    the index. None is empty. Many copies of one digest come in several."""
    bits = max(1, (2 * count // RUN).bit_length())
    with tempfile.TemporaryFile(dir=folder) as file:
        runs = Column(file, np.uint64, folder)
        starts = list(_sorted_runs(blocks, runs, bits))
        for part in range(1 << bits):
            places = [(own[part], own[part + 1]) for own in starts if own[part] < own[part + 1]]
            slices = (runs.rows(begin, end, width + 1) for begin, end in places)
            if _are_copies(places, runs, width):
                yield from slices
            elif places:
                merged = np.concatenate(list(slices))
                yield merged[_sorted(merged[:, :width])]


def _are_copies(places: list[tuple[int, int]], runs: Column, width: int) -> bool:
    """Is what lies at many `places`, each of them in order, one digest all over?"""
    if sum(end - begin for begin, end in places) <= _MANY * RUN:
        return False
    ends = [runs.rows(at, at + 1, width + 1) for begin, end in places for at in (begin, end - 1)]
    return not (np.concatenate(ends)[:, :width] != ends[0][:, :width]).any()


def _sorted_runs(blocks: Iterable[Array], runs: Column, bits: int) -> Iterator[list[int]]:
    """Write each block in order, every digest with its index. Where in `runs` each range of the
    first `bits` begins."""
    before = 0
    for block in blocks:
        order = _sorted(block)
        records = np.column_stack([block[order], (order + before).astype(np.uint64)])
        runs.extend(records.reshape(-1))
        ranges = records[:, 0] >> np.uint64(64 - bits)
        bounds = np.searchsorted(ranges, np.arange((1 << bits) + 1, dtype=np.uint64))
        yield (bounds + before).tolist()
        before += len(block)


def _sorted(words: Array) -> Array:
    """Indexes of digests in order, equal ones as they came."""
    return np.lexsort(words.T[::-1])


def _begins(words: Array) -> Array:
    """Of digests in order, is each another one than before? bool [n]."""
    return np.append(np.ones(min(len(words), 1), bool), (words[1:] != words[:-1]).any(axis=1))


# --- questions about several


def first_of(wanted: Digests, there: Digests) -> Array:
    """For each of `wanted` where it first is in `there`; -1 where it is not."""
    found = ordered(there, wanted)
    first = found.firsts()[found.codes()[len(there) :]]
    return np.where(first < len(there), first, -1)


def in_both(one: Digests, other: Digests) -> int:
    """How many different digests are in both."""
    found = ordered(one, other)
    return int(((found.firsts() < len(one)) & (found.lasts() >= len(one))).sum())
