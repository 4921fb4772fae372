"""A row that was made, and which are refused: too short, too long, or known already."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from runner.asking.talk import Unusable
from runner.synthesis.settings import Filters, Settings

_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Made:
    """A question with an answer; `rejected` is the worse one of a preference pair.

    `place` is where the row came from, FILE:LINE.
    """

    question: str
    answer: str
    place: str
    rejected: str | None = None
    is_of_a_known_question: bool = False

    @property
    def new(self) -> str:
        """The text that must be new: the question, or what it was answered."""
        return f"{self.question}\n{self.answer}" if self.is_of_a_known_question else self.question

    def texts(self) -> dict[str, str]:
        """What models said, or what they were asked about, by its part of the row."""
        rejected = {} if self.rejected is None else {"rejected": self.rejected}
        return {"question": self.question, "answer": self.answer, **rejected}

    def as_row(self, settings: Settings, task: int, digests: Iterable[str]) -> dict[str, Any]:
        """In the format messages or preference, with where it came from for whoever reviews it."""
        start = [] if settings.system is None else [_turn("system", settings.system)]
        origin = {"kind": settings.kind, "task": task, "from": self.place, "requests": [*digests]}
        asked = [*start, _turn("user", self.question)]
        if self.rejected is None:
            return {"messages": [*asked, _turn("assistant", self.answer)], "synthesis": origin}
        return {
            "prompt": asked if start else self.question,
            "chosen": self.answer,
            "rejected": self.rejected,
            "synthesis": origin,
        }


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def words_of(text: str) -> list[str]:
    """What counts when texts are compared: words in small letters, no marks."""
    return _WORD.findall(text.casefold())


def ngrams(words: list[str], size: int) -> set[tuple[str, ...]]:
    """All runs of `size` words; of a shorter text, the whole."""
    if len(words) < size:
        return {tuple(words)} if words else set()
    return {tuple(words[at : at + size]) for at in range(len(words) - size + 1)}


class Known:
    """Texts that are there already, by their n-grams."""

    def __init__(self, filters: Filters) -> None:
        self._filters = filters
        self._exact: dict[tuple[str, ...], str] = {}
        self._holders: dict[tuple[str, ...], list[int]] = {}  # n-gram -> texts that hold it
        self._places: list[str] = []

    def add(self, text: str, place: str) -> None:
        """Remember a text."""
        words = words_of(text)
        self._exact.setdefault(tuple(words), place)
        for gram in ngrams(words, self._filters.ngram):
            self._holders.setdefault(gram, []).append(len(self._places))
        self._places.append(place)

    def check(self, text: str) -> float:
        """The part of its n-grams that stands in one known text. Raises Unusable for too much."""
        words = words_of(text)
        place = self._exact.get(tuple(words))
        if place is not None:
            raise Unusable("duplicate", f"of {place}: {text}")
        part, place = self._most_alike(ngrams(words, self._filters.ngram))
        if part > self._filters.max_overlap:
            raise Unusable("near duplicate", f"{part:.2f} of {place}: {text}")
        return part

    def _most_alike(self, grams: set[tuple[str, ...]]) -> tuple[float, str]:
        shared = Counter(each for gram in grams for each in self._holders.get(gram, ()))
        if not shared:
            return 0.0, ""
        most = max(shared.values())
        first = min(each for each, count in shared.items() if count == most)
        return most / len(grams), self._places[first]


def check_lengths(made: Made, filters: Filters) -> None:
    """Raises Unusable."""
    answers = [made.answer, *([] if made.rejected is None else [made.rejected])]
    if min(map(len, answers)) < filters.min_characters:
        raise Unusable("too short", min(answers, key=len))
    longest = max([made.question, *answers], key=len)
    if len(longest) > filters.max_characters:
        raise Unusable("too long", longest)


@dataclass(frozen=True, slots=True)
class Diversity:
    """Of all rows together: different n-grams per n-gram; mean overlap with the nearest earlier."""

    distinct_1: float
    distinct_2: float
    distinct_3: float
    mean_overlap: float


def diversity(texts: list[str], overlaps: list[float]) -> Diversity:
    """1 is all different; the mean overlap is 0 where no two share an n-gram."""
    parts = []
    for size in (1, 2, 3):
        grams = Counter(
            tuple(words[at : at + size])
            for words in map(words_of, texts)
            for at in range(len(words) - size + 1)
        )
        parts.append(len(grams) / total if (total := sum(grams.values())) else 0.0)
    mean = sum(overlaps) / len(overlaps) if overlaps else 0.0
    return Diversity(*(round(each, 4) for each in (*parts, mean)))
