"""Rows that hold what the model is to be measured by."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from runner.scripts.data.cleaning.report import Drop
from runner.scripts.data.cleaning.texts import SAID, Row, texts_of
from runner.scripts.data.cleaning.words import words_of
from runner.scripts.data.rows import Problem, read_rows
from runner.scripts.spec import ScriptError

Run = tuple[str, ...]
LEAST = 4  # words of a text that is looked for; fewer are in too many others


class Measure:
    """Runs of `ngram` words that rows must not hold; a shorter text is looked for as a whole."""

    def __init__(self, ngram: int) -> None:
        self._ngram = ngram
        # First words of a run -> how many words it has -> the run -> where it stands.
        self._runs: dict[Run, dict[int, dict[Run, str]]] = {}

    def add(self, texts: Iterable[str], origin: str) -> None:
        """Look for `texts` too; `origin` says where they stand."""
        for text in texts:
            words = words_of(text)
            length = min(len(words), self._ngram)
            if length < LEAST:
                continue
            for start in range(len(words) - length + 1):
                run = tuple(words[start : start + length])
                alike = self._runs.setdefault(run[:LEAST], {})
                alike.setdefault(length, {}).setdefault(run, origin)

    def __call__(self, row: Row) -> Row | Drop:
        """The row, unless it holds one of the runs."""
        for text in texts_of(row, SAID):
            found = self._found(words_of(text))
            if found:
                run, origin = found
                return Drop(f"holds {len(run)} words of {origin}", " ".join(run))
        return row

    def _found(self, words: Sequence[str]) -> tuple[Run, str] | None:
        for start in range(len(words) - LEAST + 1):
            alike = self._runs.get(tuple(words[start : start + LEAST]), {})
            for length, runs in alike.items():
                run = tuple(words[start : start + length])
                if run in runs:
                    return run, runs[run]
        return None


def texts_of_file(path: Path, name: str) -> Iterator[tuple[str, str]]:
    """Every text in the rows of a file, whatever its keys are, and where it stands.

    Raises ScriptError E355.
    """
    count = 0
    for item in read_rows(path, name):
        if isinstance(item, Problem):
            raise ScriptError(
                f"{item.place}: {item.error.message}",
                hint="data.clean.decontaminate.files takes rows as data.train does",
                code="E355",
            )
        place, row = item
        for text in _texts(row):
            count += len(words_of(text)) >= LEAST
            yield text, str(place)
    if not count:
        raise ScriptError(
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
