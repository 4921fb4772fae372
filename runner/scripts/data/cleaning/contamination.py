"""Rows that hold what the model is to be measured by."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from runner.scripts.data.cleaning.report import Drop
from runner.scripts.data.cleaning.texts import SAID, Row, texts_of
from runner.scripts.data.cleaning.words import words_of
from runner.scripts.data.files.rows import MAX_SHOWN, Problem, read_rows
from runner.scripts.spec import ScriptError
from runner.scripts.weights.floats import Array

LEAST = 4  # words of a text that is looked for; fewer are in too many others
_MULTIPLIERS = (0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93)  # odd; runs must agree by both


class Measure:
    """Runs of `ngram` words that rows must not hold; a shorter text is looked for as a whole.

    Memory: 20 bytes a word that is looked for. Runs are known by two hashes of 64 bits.
    """

    def __init__(self, ngram: int) -> None:
        self._ngram = ngram
        self._origins: list[str] = []
        self._added: dict[int, list[tuple[Array, Array, Array]]] = {}  # words of a run -> hashes
        self._runs: dict[int, tuple[Array, Array, Array]] = {}  # the same, in order

    def add(self, texts: Iterable[str], origin: str) -> int:
        """Look for `texts` too; how many are long enough. `origin` says where they stand."""
        count = 0
        self._runs = {}
        self._origins.append(origin)
        for text in texts:
            words = _hashes(words_of(text))
            length = min(len(words), self._ngram)
            if length < LEAST:
                continue
            count += 1
            first, second = (_rolled(words, length, each) for each in _MULTIPLIERS)
            origins = np.full(len(first), len(self._origins) - 1, np.int32)
            self._added.setdefault(length, []).append((first, second, origins))
        return count

    def add_file(self, path: Path, name: str) -> int:
        """Look for all texts of a file; how many are long enough. Raises ScriptError E355."""
        return sum(self.add([text], place) for text, place in texts_of_file(path, name))

    def __call__(self, row: Row) -> Row | Drop:
        """The row, unless it holds one of the runs."""
        if not self._runs:
            self._put_in_order()
        for text in texts_of(row, SAID):
            words = words_of(text)
            found = self._found(words)
            if found:
                start, length, origin = found
                run = " ".join(words[start : start + length])
                return Drop(f"holds {length} words of {origin}", run)
        return row

    def _put_in_order(self) -> None:
        for length, parts in self._added.items():
            first, second, origins = map(np.concatenate, zip(*parts, strict=True))
            keys, at = np.unique(first, return_index=True)  # the first of each that was added
            self._runs[length] = keys, second[at], origins[at]
            self._added[length] = [self._runs[length]]

    def _found(self, words: Sequence[str]) -> tuple[int, int, str] | None:
        """Where the first run begins, the longest of those that begin there, and its origin."""
        hashes = _hashes(words)
        best: tuple[int, int, str] | None = None
        for length in sorted(self._runs, reverse=True):
            if length > len(words):
                continue
            first, second = (_rolled(hashes, length, each) for each in _MULTIPLIERS)
            keys, checks, origins = self._runs[length]
            at = np.minimum(np.searchsorted(keys, first), len(keys) - 1)
            starts = np.flatnonzero((keys[at] == first) & (checks[at] == second))
            if len(starts) and (best is None or starts[0] < best[0]):
                start = int(starts[0])
                best = start, length, self._origins[int(origins[at[start]])]
        return best


def _hashes(words: Sequence[str]) -> Array:
    """uint64 [words]. They are compared within one process only."""
    return np.array([hash(word) for word in words], np.int64).view(np.uint64)


def _rolled(words: Array, length: int, multiplier: int) -> Array:
    """uint64 [words - length + 1]: of each run of `length` words."""
    count = len(words) - length + 1
    found = np.zeros(count, np.uint64)
    for number in range(length):
        found = found * np.uint64(multiplier) + words[number : number + count]
    return found


def texts_of_file(path: Path, name: str) -> Iterator[tuple[str, str]]:
    """Every text in the rows of a file, whatever its keys are, and where it stands.

    Raises ScriptError E355 at the end, for all bad rows.
    """
    bad: list[str] = []
    count = 0
    for item in read_rows(path, name):
        if not isinstance(item, Problem):
            place, row = item
            yield from ((text, str(place)) for text in _texts(row))
            continue
        count += 1
        if len(bad) < MAX_SHOWN:
            bad.append(f"{item.place}: {item.error.message}")
    if count:
        more = [f"and {count - len(bad)} more rows"] if count > len(bad) else []
        raise ScriptError(
            "\n".join([*bad, *more]),
            hint="data.clean.decontaminate.files takes rows as data.train does",
            code="E355",
        )


def nothing_to_look_for(name: str) -> ScriptError:
    """What to say of a file that was named for its texts."""
    return ScriptError(
        f"{name} holds no text of {LEAST} words or more to look for",
        hint="name a file whose rows are to be kept out of the training",
        code="E355",
    )


def _texts(value: Any) -> Iterator[str]:
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, str):
            yield each
        elif isinstance(each, dict | list):
            waiting += reversed(each.values() if isinstance(each, dict) else each)
