"""Answers that are too short or too long."""

from __future__ import annotations

from collections.abc import Callable

from runner.scripts.data.cleaning.report import Drop
from runner.scripts.data.cleaning.texts import Row, answers_of, sides_of


def at_least(least: int) -> Callable[[Row], Row | Drop]:
    """Drops rows with an answer of fewer characters, whitespace around it not counted.

    A call of a tool needs no words. Of a pair, both answers count.
    """

    def check(row: Row) -> Row | Drop:
        short = next((text for text in _answers(row) if len(text.strip()) < least), None)
        return (
            row if short is None else Drop(f"an answer of {len(short.strip())} characters", short)
        )

    return check


def at_most(most: int) -> Callable[[Row], Row | Drop]:
    """Drops rows with an answer of more characters."""

    def check(row: Row) -> Row | Drop:
        long = next((text for text in _answers(row) if len(text.strip()) > most), None)
        return row if long is None else Drop(f"an answer of {len(long.strip())} characters", long)

    return check


def _answers(row: Row) -> list[str]:
    return [text for side in sides_of(row) for text in answers_of(side)]
